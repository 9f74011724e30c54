"""What a model makes of held-out samples: its objective's loss and metrics, by forward passes alone.

Every sample counts once, whatever the layout: sums are added over micro batches and replicas and divided once, so that a last
batch of fewer samples weighs what it holds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from megatron.core import parallel_state
from torch import Tensor
from tqdm import tqdm

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.objectives.common_metrics import common_metrics
from nemo_mm_align.objectives.objective import Objective, Reading, Reads
from nemo_mm_align.parallel import runtime
from nemo_mm_align.training.data import Collator
from nemo_mm_align.training.point import point_sums, shared_point, with_point
from nemo_mm_align.training.reference_passes import Passes
from nemo_mm_align.training.schedule import run_schedule

_PER_STAGE = 2
"""Micro batches in a pipeline per stage, as for the reference."""


def reads_of(objective: Objective) -> Reads:
    """What is read of held-out samples: as in training, with the distribution where token losses are read."""
    return replace(objective.reads, distribution=objective.reads.token_losses)


def metric_names(objective: Objective, collator: Collator, sample: Sample, hidden_size: int, outputs: int) -> list[str]:
    """Return the names of the metrics that an objective tells, in order, without a model: of a reading that holds zeros.

    Args:
        collator: makes the batches; no image is decoded.
        sample: any one.
        hidden_size: of the model.
        outputs: of its head; 0 without one.
    """
    without_images = copy.copy(collator)
    without_images.with_images = False
    if objective.needs_reference:
        zeros = [0.0] * len(sample.sequences)
        sample = replace(sample, reference_log_probs=zeros, prior_log_probs=zeros if sample.prior_sequences else None)
    batch = with_point(objective, without_images([sample], collator.length([sample])))
    reads = reads_of(objective)
    blank_BS = torch.zeros(batch.labels_BS.shape)
    told, read = blank_BS if reads.token_losses else None, blank_BS if reads.distribution else None
    hidden_QH = None if reads.hidden is None else torch.zeros(batch.num_sequences, hidden_size)
    outputs_QT = None if hidden_QH is None or not outputs else torch.zeros(batch.num_sequences, outputs)
    reading = Reading(told, hidden_QH, outputs_QT, read, read)
    return sorted(common_metrics(reads, reading, batch) | objective.loss(reading, batch).metrics)


@dataclass(frozen=True)
class Validation:
    """Held-out samples and how they are measured.

    Args:
        samples: at least one, with reference log-probs where the objective needs them.
        collator: makes their batches.
        objective: whose loss and metrics are told.
        micro_batch_size: samples of a forward pass.
        names: of the metrics, see `metric_names`: a replica without a sample must know them too.
        progress: show a bar on this rank.
        mismatched: what the objective's point is measured on, over all of them, where it has one.
    """

    samples: Sequence[Sample]
    collator: Collator
    objective: Objective
    micro_batch_size: int
    names: Sequence[str]
    progress: bool = False
    mismatched: Sequence[Sample] | None = None

    @torch.no_grad()
    def measure(self, model: Llava, keep_on: Callable[[], bool] = lambda: True) -> dict[str, float] | None:
        """Return every metric, the same on all ranks, NaN where nothing counts; all ranks call it.

        The model evaluates meanwhile: no dropout, and no random number is drawn.

        Args:
            keep_on: asked on all ranks between passes; where it says no, None is returned.
        """
        training = model.training
        model.eval()
        try:
            sums_M2 = self._all_sums(model, keep_on)
        finally:
            model.train(training)
        if sums_M2 is None:
            return None
        runtime.broadcast_from_last_stage(sums_M2)
        torch.distributed.all_reduce(sums_M2, group=parallel_state.get_data_parallel_group())
        means = {
            name: total / weight if weight else math.nan
            for name, (total, weight) in zip(self.names, sums_M2.tolist(), strict=True)
        }
        return means | self.objective.derived(means)

    def _all_sums(self, model: Llava, keep_on: Callable[[], bool]) -> Tensor | None:
        """The same as `_sums`, of what the batches hold: after the objective's point has been measured, where it has one."""
        point = None
        if self.mismatched is not None:
            sums_2 = torch.zeros(2, dtype=torch.float64, device=runtime.device())
            for parts in self._mine(self.mismatched, keep_on):
                if parts is None:
                    return None
                sums_2 += point_sums(model, self.objective, self._batches(parts))
            point = shared_point(sums_2)
        return self._sums(model, keep_on, point)

    def _sums(self, model: Llava, keep_on: Callable[[], bool], point: Tensor | None) -> Tensor | None:
        """Sums and weights over this replica's samples, float64 [M, 2], on its last stage; zeros elsewhere."""
        sums_M2 = torch.zeros(len(self.names), 2, dtype=torch.float64, device=runtime.device())
        for parts in self._mine(self.samples, keep_on):
            if parts is None:
                return None
            batches = [with_point(self.objective, batch, point) for batch in self._batches(parts)]
            for report in run_schedule(model, batches, reads_of(self.objective), self._report, forward_only=True):
                sums_M2 += torch.stack([part for name in self.names for part in report[name]]).view(-1, 2)
        return sums_M2

    def _mine(
        self, samples: Sequence[Sample], keep_on: Callable[[], bool]
    ) -> Iterator[Sequence[Sequence[Sample]] | None]:
        """Yield the micro batches of this replica's samples, schedule by schedule; None, and no more, where it is to stop."""
        passes, replicas = self._passes(), runtime.data_parallel_size()
        order = sorted(range(len(samples)), key=lambda place: -self.collator.length([samples[place]]))
        mine = order[runtime.data_parallel_rank() :: replicas]
        most = len(order[::replicas])  # the first replica's share: all count as many rounds, to agree in each
        for start in tqdm(range(0, most, passes.samples), "validation", disable=not self.progress, leave=False):
            if not keep_on():
                yield None
                return
            yield from passes.schedules([samples[place] for place in mine[start : start + passes.samples]])

    def _passes(self) -> Passes:
        stages = parallel_state.get_pipeline_model_parallel_world_size()
        return Passes(self.micro_batch_size, _PER_STAGE * stages if stages > 1 else 1)

    def _batches(self, parts: Sequence[Sequence[Sample]]) -> list[Batch]:
        length = self.collator.length([sample for part in parts for sample in part])
        return self.collator.batches(parts, length)

    def _report(self, reading: Reading, batch: Batch) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
        output = self.objective.loss(reading, batch)
        told = common_metrics(reads_of(self.objective), reading, batch) | output.metrics
        return output.loss_sum, output.count, told
