"""Steps that were measured, as jobs: what the rough times are held against."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ConfigDict

from nemo_mm_align.capacity.gpus import GPU, find_gpu
from nemo_mm_align.capacity.job import TrainingJob, Workload, read_job
from nemo_mm_align.capacity.operations import estimated_work
from nemo_mm_align.capacity.steptime import time_of_rows
from nemo_mm_align.core.configuration import STRICT, read
from nemo_mm_align.model.config import ParallelConfig

MEASURED_GPU = "h200_141gb"
"""The card of all of them."""
_MICRO_BATCHES = 2
_ANSWER = 201  # tokens, the stop token included


@dataclass(frozen=True)
class MeasuredStep:
    """One line of measured.yaml, whose head says what the fields are."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: str
    recipe: str
    samples: int
    seconds: tuple[float, ...]
    gib: float
    prompt: int = 40
    shared: bool = True
    lora: bool = True
    layers: int | None = None
    recompute: str = "none"
    precision: str = "bf16"

    def job(self, base: TrainingJob) -> TrainingJob:
        """The job that was measured, of one that has the model's and the recipe's settings."""
        language = base.config.language
        config = replace(base.config, language=replace(language, num_layers=self.layers or language.num_layers))
        length = config.tokens_per_image + self.prompt + _ANSWER
        return replace(
            base,
            config=config,
            parallel=ParallelConfig(),
            engine=replace(base.engine, precision=self.precision, recompute=self.recompute),
            lora=base.lora if self.lora else None,
            workload=Workload(length, _ANSWER),
            micro_batch_size=self.samples,
            global_batch_size=self.samples * _MICRO_BATCHES,
            shared_prefix=base.shared_prefix and self.shared,
        )

    @property
    def overrides(self) -> list[str]:
        """Of conf/train.yaml, for the settings of model and recipe."""
        return [f"model={self.model}", f"recipe={self.recipe}"]


@dataclass(frozen=True)
class Comparison:
    """A measured step beside its estimate.

    Args:
        job: what was measured.
        measured: seconds of each measurement.
        estimated: seconds by the formula.
    """

    job: TrainingJob
    measured: tuple[float, ...]
    estimated: float

    @property
    def tokens(self) -> int:
        """Positions of a micro batch."""
        return int(estimated_work(self.job).tokens)

    @property
    def error(self) -> float:
        """By how much the estimate is above the mean of the measurements, as a share of it."""
        return self.estimated / statistics.mean(self.measured) - 1


def measured_steps() -> list[MeasuredStep]:
    """All of them, in the order of the file."""
    path = Path(__file__).with_name("measured.yaml")
    lines: list[Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [read(MeasuredStep, line, path.name) for line in lines]


def compare(step: MeasuredStep, composed: Mapping[str, Any]) -> Comparison:
    """Estimate what was measured.

    Args:
        composed: conf/train.yaml with the step's `overrides`.
    """
    gpu: GPU = find_gpu(MEASURED_GPU)
    job = step.job(read_job(composed, 1, 1))
    return Comparison(job, step.seconds, time_of_rows(job, gpu).total)
