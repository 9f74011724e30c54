"""The stage behind ``scripts/build.py``: annotations in, a training set and its summary out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.core.configuration import StrictModel, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.core.outputs import file_to_write
from nemo_mm_align.datasets.build_rated import heldout_path, keep_training
from nemo_mm_align.datasets.build_settings import ATTRIBUTE_MODEL, BuildSettings
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.datasets.builders import BUILDERS, stream
from nemo_mm_align.datasets.exports import Export, export_named
from nemo_mm_align.datasets.relocate import relocate_images
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import Example
from nemo_mm_align.schema.records import Annotation, read_records

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationFile:
    """An annotations file as something that can be gone through more than once."""

    path: Path

    def __iter__(self) -> Iterator[Annotation]:
        return read_records(self.path, Annotation)


class BuildFile(StrictModel):
    """Settings of the stage, as in ``conf/build.yaml``."""

    annotations: Path
    out: Path
    format: str
    method: BuildSettings
    attribute_schema: AttributeSchema


def build_from_config(config: DictConfig) -> BuildSummary:
    """Read ``annotations``, build, write ``out`` and ``<out>.summary.json`` beside it; return the summary.

    Prompts that the method holds out stand in a file of their own beside ``out``.

    Raises:
        UserError: a setting is missing, annotations of another attribute schema, a prompt annotated twice, nothing
            left to write, or `out` cannot be written or is being written by another process.
    """
    _check_complete(config)
    asked = read(BuildFile, OmegaConf.to_container(config, resolve=True))
    schema, settings, source, out = asked.attribute_schema, asked.method, asked.annotations, asked.out
    if out.resolve() == source.resolve():
        raise UserError(f"out={out} is the annotations file itself; give another name.")
    file_to_write(out)
    summary, export = BuildSummary(settings.name, schema), export_named(asked.format, schema, out)
    with owned_output(out):
        examples = stream(settings, AnnotationFile(source), schema, summary, export.unfit)
        _write(relocate_images(examples, source, out), settings, asked.format, summary, export)
        summary.warnings += export.warnings()
        summary.write(
            Path(f"{out}.summary.json"), settings.model_dump(mode="json", exclude_unset=True) | {"format": asked.format}
        )
    logger.info("%s\nwrote %s", summary.table(), out)
    for warning in summary.warnings:
        logger.warning("%s", warning)
    return summary


def _write(
    examples: Iterable[Example], settings: BuildSettings, form: str, summary: BuildSummary, export: Export
) -> None:
    held: list[Example] = []
    beside = heldout_path(export.path)
    if settings.holdout:
        file_to_write(beside)
        examples = keep_training(examples, settings, summary, held)
    export.write(examples)
    if held:
        export_named(form, summary.schema, beside).write(held)
    elif settings.name == ATTRIBUTE_MODEL and beside.exists():
        summary.warnings.append(f"{beside} is of an earlier build: its prompts may be trained on now.")


def _check_complete(config: DictConfig) -> None:
    missing = [f"{key}=..." for key in ("annotations", "out") if OmegaConf.is_missing(config, key)]
    if config.get("method") is None:
        missing.insert(0, f"method=... ({', '.join(BUILDERS)})")
    if missing:
        raise UserError(f"missing on the command line: {', '.join(missing)}. Each is explained in conf/build.yaml.")
