"""What is measured on a whole step, or on all held-out samples, before the first loss: see `Objective.point`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from megatron.core import parallel_state
from torch import Tensor

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.objectives.objective import Objective, Reading
from nemo_mm_align.parallel import runtime
from nemo_mm_align.training.schedule import run_schedule


def point_sums(model: Llava, objective: Objective, batches: Sequence[Batch]) -> Tensor:
    """Return sum and weight of `Objective.point` over micro batches of one shape, float64 [2]; zeros but on the last stage."""

    def report(reading: Reading, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        total, weight = objective.point(reading, batch)
        return total, torch.tensor(1, dtype=torch.int), torch.stack([total.double(), weight.double()])

    reports = run_schedule(model, batches, objective.reads, report, forward_only=True)
    return sum(reports, torch.zeros(2, dtype=torch.float64, device=runtime.device()))


def shared_point(sums_2: Tensor) -> Tensor:
    """Return the mean over all replicas, a scalar on every rank; all ranks call it."""
    runtime.broadcast_from_last_stage(sums_2)
    torch.distributed.all_reduce(sums_2, group=parallel_state.get_data_parallel_group())
    return (sums_2[0] / sums_2[1]).float()


@torch.no_grad()
def measure_point(model: Llava, objective: Objective, batches: Sequence[Batch]) -> Tensor:
    """Return the point of a step, whose mismatched answers these are; all ranks call it.

    The model evaluates meanwhile: no dropout, and no random number is drawn.
    """
    training = model.training
    model.eval()
    sums_2 = point_sums(model, objective, batches)
    model.train(training)
    return shared_point(sums_2)


def with_point(objective: Objective, batch: Batch, point: Tensor | None = None) -> Batch:
    """Return a batch with a point, 0 without one, for an objective that has a point; for others the batch as it is."""
    if not objective.has_point:
        return batch
    return replace(batch, point=torch.zeros(()) if point is None else point)
