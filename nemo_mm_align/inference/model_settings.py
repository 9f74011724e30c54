"""What every stage that runs a finished model asks for: the model's folder, the layout and the precision it runs in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from nemo_mm_align.core.configuration import Count, StrictModel
from nemo_mm_align.model.config import ParallelConfig, Precision
from nemo_mm_align.model.settings import layout_of


class FinishedModelSettings(StrictModel):
    """What all of them ask for; the comments in ``conf`` say what each means."""

    checkpoint: Path
    base: Path | None = None
    tensor_model_parallel_size: Count = 1
    pipeline_model_parallel_size: Count = 1
    num_layers_in_first_pipeline_stage: Count | None = None
    num_layers_in_last_pipeline_stage: Count | None = None
    precision: Literal["auto"] | Precision = "auto"
    template: dict[str, Any] | None = None

    @property
    def parallel(self) -> ParallelConfig:
        """The layout."""
        return layout_of(self)


class ModelSettings(FinishedModelSettings):
    """What ``sample``, ``generate``, ``annotate`` and ``probe`` share: they read images from files that others name."""

    image_root: Path | None = None
