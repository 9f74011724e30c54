"""What can be known of `sample` and `generate` before torch is imported: settings, paths, layout, and who writes the answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core import lock
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.outputs import file_to_write
from nemo_mm_align.core.processes import this_process
from nemo_mm_align.inference.requests import raise_faults
from nemo_mm_align.inference.settings import InferenceSettings, settings_from_config
from nemo_mm_align.inference.task_files import settings_by_file, write_prompts
from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.parallel.source import ModelSource, open_source
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.images import image_fault
from nemo_mm_align.schema.records import Prompt, read_records

_EITHER = (
    "give either prompts=FILE.jsonl and out=FILE.jsonl, or tasks={NAME: {...}} and out=FOLDER, or question=... alone."
)


def check_early(values: Mapping[str, Any]) -> InferenceSettings:
    """Read the settings and check all of them that needs no tokenizer and no weight.

    The file of answers is this process's from then on.

    Args:
        values: ``conf/sample.yaml`` or ``conf/generate.yaml``, composed, as plain values.

    Raises:
        UserError: what is wrong, with the remedy.
    """
    settings = settings_from_config(values)
    check_mode(settings)
    _ = settings.sampling  # is checked when it is made
    source, _ = check_model(settings.checkpoint, settings.parallel, settings.precision, settings.template)
    check_base(settings.base)
    source.image_processor()
    schema = source.schema(settings.attribute_schema)
    settings.assignments(schema)
    if settings.asks and schema is not None:
        schema.complete(settings.attributes)
    settings.drawn(schema)
    raise_faults([fault for path in settings.image if (fault := image_fault(path))], "Give other images.")
    if settings.tasks is not None:
        _prepare_tasks(settings, source)
    elif settings.prompts is not None and settings.out is not None:
        next(read_records(settings.prompts, Prompt))  # there is one; the others are read with the tokenizer at hand
        reserve_output(settings.out)
    return settings


def check_mode(settings: InferenceSettings) -> None:
    """Raise `UserError` unless there is either one question, or a place for answers with a file of prompts or tasks."""
    asked = (settings.prompts, settings.tasks, settings.question)
    alone = sum(one is not None for one in asked) == 1
    if not alone or (settings.out is None) != (settings.question is not None):
        raise UserError(_EITHER)


def _prepare_tasks(settings: InferenceSettings, source: ModelSource) -> None:
    """Reserve all files of answers, and write the tasks' prompts on the first rank, which the others will read."""
    files = settings_by_file(settings, source)
    for one in files:
        if one.out is not None:
            reserve_output(one.out)
    if this_process().rank == 0:
        write_prompts(settings, files)


def check_model(
    folder: str | Path,
    parallel: ParallelConfig,
    precision: str,
    template: Mapping[str, Any] | None,
    rates: bool = False,
) -> tuple[ModelSource, ChatTemplate]:
    """Find the model in a folder and its template, and check the layout against model and ranks; see `open_for_inference`."""
    if precision != "auto" and EngineConfig(precision=precision).fp8:
        raise UserError(
            f"precision={precision}: FP8 is for training. A step of decoding multiplies one row per answer, and FP8 products "
            "want multiples of 16. Set precision=bf16; a model trained in FP8 opens in it."
        )
    source = open_source(folder)
    if rates:
        source.schema_told()
    else:
        source.refuse_head("it cannot be asked for answers")
    parallel.data_parallel_size(this_process().world_size)
    source.config.check(parallel)
    return source, source.template(ChatTemplate.from_config(template) if template else None)


def check_base(base: Path | None) -> None:
    """Raise `UserError` where a folder is given for the checkpoint's base, and there is none."""
    if base is not None and not base.is_dir():
        raise UserError(f"base={base}: no such folder. Give the one in which the checkpoint's base lies now.")


def reserve_output(out: Path) -> None:
    """Make a file this process's to write; raise `UserError` where it cannot be written or is being written."""
    file_to_write(out)
    if this_process().rank == 0:
        lock.reserve(lock.lock_of(out), out, "give another out")
