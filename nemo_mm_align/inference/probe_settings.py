"""What the user can set for the probe, and what can be known of it before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.configuration import Count, Positive, Seed, StrictModel, read
from nemo_mm_align.errors import UserError
from nemo_mm_align.inference.early import check_model, reserve_output
from nemo_mm_align.model.config import ParallelConfig, Precision
from nemo_mm_align.model.head_config import Pooling
from nemo_mm_align.model.settings import layout_of
from nemo_mm_align.records import RatedAnswers, read_records


class ProbeSettings(StrictModel):
    """What ``conf/probe.yaml`` holds; the comments there say what each means."""

    checkpoint: Path
    base: Path | None = None
    train: Path
    heldout: Path
    out: Path
    image_root: Path | None = None
    pooling: Pooling
    alphas: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=100)]
    folds: Annotated[int, Field(ge=2, le=1000)]
    seed: Seed
    tensor_model_parallel_size: Count = 1
    pipeline_model_parallel_size: Count = 1
    num_layers_in_first_pipeline_stage: Count | None = None
    num_layers_in_last_pipeline_stage: Count | None = None
    precision: Literal["auto"] | Precision = "auto"
    max_batch_tokens: Count = 32768
    template: dict[str, Any] | None = None
    attribute_schema: AttributeSchema

    @property
    def parallel(self) -> ParallelConfig:
        """The layout."""
        return layout_of(self)


def check_early(values: Mapping[str, Any]) -> ProbeSettings:
    """Read the settings and check all of them that needs no tokenizer and no weight; the output is this process's then.

    Raises:
        UserError: what is wrong, with the remedy.
    """
    settings = read(ProbeSettings, values)
    source, _ = check_model(settings.checkpoint, settings.parallel, settings.precision, settings.template)
    source.image_processor()
    if settings.base is not None and not settings.base.is_dir():
        raise UserError(f"base={settings.base}: no such folder. Give the one in which the checkpoint's base lies now.")
    for path in (settings.train, settings.heldout):
        next(read_records(path, RatedAnswers))
        if settings.out.resolve() == path.resolve():
            raise UserError(f"out={path} is one of the files that are read; give another name.")
    reserve_output(settings.out)
    return settings
