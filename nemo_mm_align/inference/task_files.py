"""Evaluation tasks to be answered: their prompts as files, and the files that their answers go to.

``<out>/<task>.prompts.jsonl`` and ``<out>/<task>.jsonl``; of a model that can be asked for attributes the same once more in
``<out>_unasked``, answered without being asked. The prompts of a swept task are answered once per value of each attribute.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.cli.typed import typed_keys
from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.results import UNASKED
from nemo_mm_align.evaluation.task_settings import task_sections
from nemo_mm_align.evaluation.tasks.optional import is_swept, task_class
from nemo_mm_align.evaluation.tasks.task import BringsPrompts, build_task
from nemo_mm_align.inference.own_decoding import warn_of_unused
from nemo_mm_align.inference.settings import InferenceSettings
from nemo_mm_align.parallel.source import ModelSource
from nemo_mm_align.schema.records import Prompt

logger = logging.getLogger(__name__)

IMAGES = "images"
"""Folder beside the answers for images that lie inside a task's data files."""


def settings_by_file(settings: InferenceSettings, source: ModelSource) -> list[InferenceSettings]:
    """Return the settings of each file of answers: task by task, first what the model is asked for, then without.

    Raises:
        UserError: `variants` says what this model or the other settings do not allow.
    """
    assert settings.tasks is not None and settings.out is not None
    by_folder = {settings.out: settings}
    if settings.variants == "auto" and source.asking is not None and not (settings.sweep or settings.draw_from):
        by_folder = {
            settings.out: _asked(settings),
            settings.out.with_name(settings.out.name + UNASKED): _plain(settings),
        }
    elif settings.variants == "asked":
        by_folder = {settings.out: _asked(settings)}
    elif settings.variants == "unasked" and settings.asks:
        raise UserError("variants=unasked, and attributes are asked for. Take one of them.")
    swept = {name for name, section in task_sections(settings.tasks).items() if is_swept(task_class(section))}
    if swept and source.asking is None:
        logger.info("%s: left out, the model cannot be asked for attributes", ", ".join(sorted(swept)))
    sweep = {settings.out: _swept(settings)} if source.asking is not None else {}
    return [
        one.model_copy(update={"prompts": prompts_path(folder, task), "out": folder / f"{task}.jsonl", "tasks": None})
        for task in settings.tasks
        for folder, one in (sweep if task in swept else by_folder).items()
    ]


def _asked(settings: InferenceSettings) -> InferenceSettings:
    return settings if settings.asks else settings.model_copy(update={"ask_defaults": True})


def _swept(settings: InferenceSettings) -> InferenceSettings:
    return settings.model_copy(update={"sweep": settings.sweep or "all"})


def _plain(settings: InferenceSettings) -> InferenceSettings:
    return settings.model_copy(update={"attributes": {}, "ask_defaults": False})


def prompts_path(folder: Path, task: str) -> Path:
    """Return where a task's prompts stand."""
    return folder / f"{task}.prompts.jsonl"


def write_prompts(settings: InferenceSettings, files: Sequence[InferenceSettings]) -> None:
    """Write the prompts of every task beside where its answers go; the first rank does that.

    Raises:
        UserError: a task that is unknown, cannot be made, or brings no prompts; or a file holds other prompts than it has now.
    """
    assert settings.tasks is not None and settings.out is not None
    images = (settings.out / IMAGES).absolute()
    for name, section in task_sections(settings.tasks).items():
        prompts = _prompts(name, section, settings, images)
        warn_of_unused(name, section, prompts, settings.sampling, typed_keys())
        lines = [prompt.model_dump_json(exclude_defaults=True) for prompt in prompts]
        for path in (
            one.prompts for one in files if one.prompts and one.prompts.name == prompts_path(Path(), name).name
        ):
            _write(path, lines, name)


def _prompts(name: str, section: dict[str, Any], settings: InferenceSettings, images: Path) -> list[Prompt]:
    task = build_task(section, settings.attribute_schema, f"tasks.{name}")
    if not isinstance(task, BringsPrompts):
        raise UserError(
            f"tasks.{name}: brings no prompts of its own. Answer a file of prompts: prompts=FILE.jsonl out=FILE.jsonl."
        )
    prompts: list[Prompt] = task.prompts(images)
    if not prompts:
        raise UserError(f"tasks.{name}: has no prompts. Look at its data.")
    logger.info("%s: %d prompts", name, len(prompts))
    return prompts


def _begun(path: Path) -> bool:
    """Whether prompts were ever answered: those of a run that was refused before are in nobody's way."""
    stem = path.name.removesuffix(".prompts.jsonl")
    return any((path.with_name(f"{stem}{ending}")).exists() for ending in (".jsonl", ".settings.json"))


def _write(path: Path, lines: Sequence[str], name: str) -> None:
    if not path.is_file() or not _begun(path):
        write_lines(path, lines)
    elif path.read_text(encoding="utf-8") != "".join(f"{line}\n" for line in lines):
        raise UserError(
            f"{path}: holds other prompts than the task {name} has now. Give another out, or take the task's settings back; to "
            f"answer anew, remove it with {path.name.removesuffix('.prompts.jsonl')}.jsonl."
        )
