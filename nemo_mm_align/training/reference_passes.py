"""How the reference's passes are laid out: they need no gradients, so they take more samples at a time than training does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nemo_mm_align.capacity.forward import samples_without_gradients
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.objectives.objective import TOKEN_LOSSES

_PER_STAGE = 2
"""Micro batches in a pipeline per stage: of its time, filling and draining then take a third at most."""


@dataclass(frozen=True)
class Passes:
    """What goes through the model between two looks at the results.

    Args:
        micro_batch_size: samples of a forward pass.
        micro_batches: that follow each other through the pipeline's stages.
    """

    micro_batch_size: int
    micro_batches: int = 1

    @property
    def samples(self) -> int:
        """Of one replica, all micro batches together."""
        return self.micro_batch_size * self.micro_batches

    def schedules(self, samples: Sequence[Sample]) -> list[list[Sequence[Sample]]]:
        """Cut the samples of one pass into micro batches, those of one size together, as a pipeline wants them."""
        size = self.micro_batch_size
        parts = [samples[start : start + size] for start in range(0, len(samples), size)]
        whole = [part for part in parts if len(part) == size]
        return [group for group in (whole, parts[len(whole) :]) if group]


def choose_passes(job: TrainingJob, longest_row: int, asked: int | None) -> Passes:
    """Return the passes of a run.

    Args:
        job: the training that follows; its memory is what the passes may use.
        longest_row: positions of the longest row of the data.
        asked: ``model.reference_micro_batch_size``; None leaves the choice to the estimate of memory.
    """
    stages = job.parallel.pipeline_model_parallel_size
    return Passes(
        micro_batch_size=asked or samples_without_gradients(replace(job, reads=TOKEN_LOSSES), longest_row),
        micro_batches=_PER_STAGE * stages if stages > 1 else 1,
    )
