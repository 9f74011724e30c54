"""An evaluation of tasks as a part of a launch: which models answer, where to, and what the tasks read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.evaluation.results import BASE, UNASKED
from nemo_mm_align.evaluation.task_settings import GROUP, config_folders, known_tasks, task_sections
from nemo_mm_align.evaluation.tasks.optional import asks_judge, task_class
from nemo_mm_align.parallel.source import open_source
from nemo_mm_align.workflow.wiring import Wiring

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FILES = ("data", "prompts")
"""Settings of tasks that name files, as far as they name some; others do where they are absolute paths."""


@dataclass(frozen=True)
class Asked:
    """A model that answers the prompts of all tasks.

    Args:
        name: of the method.
        out: folder of its answers.
        values: settings of its `generate`.
        steerable: whether it is asked with its attribute line and without.
    """

    name: str
    out: Path
    values: Mapping[str, Any]
    steerable: bool

    @property
    def folders(self) -> dict[str, str]:
        """Return the folders of its answers by the name of the method."""
        plain = {self.name: str(self.out)}
        return plain | ({f"{self.name}{UNASKED}": f"{self.out}{UNASKED}"} if self.steerable else {})


@dataclass(frozen=True)
class TaskAnswers:
    """What an evaluation of tasks is made of.

    Args:
        config: the launcher's, without what tasks bring themselves.
        tasks: as `generate` and `evaluate` take them.
        folder: of all answers.
        checkpoints: models beside the training's own, by name.
    """

    config: DictConfig
    tasks: Mapping[str, Any]
    folder: Path
    checkpoints: Mapping[str, str]

    def models(self, wiring: Wiring, trains: bool) -> list[Asked]:
        """Return who answers: the model that training starts from, the trained one, and those that were named.

        Args:
            wiring: of the training.
            trains: whether the launch trains; if not, and models are named, the trained one is left out where it is missing.
        """
        start = {BASE: dict(wiring.start)} if wiring.start else {}
        named = {name: {"checkpoint": folder} for name, folder in self.checkpoints.items()}
        wanted = trains or not named or wiring.trained.is_dir()
        trained = {wiring.recipe.name: {"checkpoint": str(wiring.trained)}} if wanted else {}
        conditioned = wiring.recipe.samples.attributed or is_steerable(wiring.start)
        return [
            Asked(
                name,
                self.folder / name,
                {**model, **wiring.layout, "tasks": dict(self.tasks), "out": str(self.folder / name)},
                conditioned if name in trained and name not in named else is_steerable(model),
            )
            for name, model in {**start, **trained, **named}.items()
        ]


def task_answers(config: DictConfig) -> TaskAnswers | None:
    """Return what `evaluate.tasks` asks for; None where there are none, or answers to them are given.

    Raises:
        UserError: an unknown task, a name that no folder may have, or settings beside them that tasks replace.
    """
    given = config.evaluate.get("tasks")
    if not given or "answers" in config.evaluate:
        return None
    tasks = _portable(OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    changed = deepcopy(config)
    with open_dict(changed):
        for stage, key in (("generate", "checkpoint"), ("generate", "prompts"), ("evaluate", "prompts")):
            if str(plain[stage].get(key)) not in ("None", "???", "${generate.prompts}"):
                raise UserError(
                    f"{stage}.{key} beside evaluate.tasks: tasks bring their prompts and are answered by the model that training "
                    "starts from, the trained one, and those of evaluate.checkpoints={NAME: FOLDER}. Leave it out."
                )
        out = Path(str(changed.generate.pop("out")))
        for stage in ("generate", "evaluate"):
            if "prompts" in plain[stage]:
                del changed[stage]["prompts"]
        checkpoints = {
            str(name): str(folder) for name, folder in (changed.evaluate.pop("checkpoints", None) or {}).items()
        }
        changed.evaluate.tasks = tasks
    for name in checkpoints:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"evaluate.checkpoints.{name}: jobs and folders are called so; take letters, digits and ._-"
            )
    return TaskAnswers(changed, tasks, out.with_suffix(""), checkpoints)


def _portable(given: Any) -> dict[str, Any]:
    """Return the tasks as jobs can read them, who know the package's own configurations alone."""
    said = {str(name): {} for name in given} if isinstance(given, list) else given
    if not isinstance(said, dict):
        raise UserError(f"evaluate.tasks={said!r}: give {{NAME: {{SETTING: VALUE}}}}, or [NAME, ...].")
    folders = config_folders()
    sections, files = task_sections(said, folders), known_tasks(folders)
    own = {name: files.get(str((said[name] or {}).get(GROUP, name)), CONF).is_relative_to(CONF) for name in sections}
    return {name: said[name] or {} if own[name] else section for name, section in sections.items()}


def is_steerable(model: Mapping[str, Any]) -> bool:
    """Whether a model that lies on this machine says that it can be asked for attributes."""
    try:
        return open_source(str(model.get("checkpoint"))).asking is not None
    except UserError:
        return False


def asks_judge_of(evaluation: Any) -> bool:
    """Whether an evaluation's configuration has a task that wants ratings or asks in its own words; unknown ones do not."""
    tasks = evaluation.get("tasks")
    if not tasks:
        return asks_judge(task_class(evaluation.get("task") or {}))
    plain: Any = OmegaConf.to_container(tasks, resolve=True)
    return any(asks_judge(task_class(section)) for section in task_sections(plain).values())


def task_files(tasks: Any) -> list[tuple[str, str]]:
    """Return the files and folders that tasks are told of: key and path."""
    plain = OmegaConf.to_container(tasks, resolve=True) if OmegaConf.is_config(tasks) else tasks
    return list(_paths(plain, "tasks")) if isinstance(plain, Mapping) else []


def _paths(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _paths(item, f"{key}.{name}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _paths(item, key)
    elif isinstance(value, str):
        path, named = Path(value), key.rpartition(".")[2] in _FILES
        if path.is_absolute() or (named and path.exists()):
            yield key, value
