"""This engine's side: one model for each set of kernels that lines ask for, and the micro batches of every line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from nemo_mm_align.benchmarks.agreed import SEED
from nemo_mm_align.benchmarks.engine import EngineTraining
from nemo_mm_align.benchmarks.lengths.runnable import OURS, Runnable
from nemo_mm_align.benchmarks.lengths.settings import Line
from nemo_mm_align.benchmarks.lengths.work import Work
from nemo_mm_align.benchmarks.pairs import batch_of
from nemo_mm_align.benchmarks.random_models import IMAGE_ID
from nemo_mm_align.core.configuration import read
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.grouping import group_answers
from nemo_mm_align.datasets.packing import pack
from nemo_mm_align.datasets.rows import batch_length, row_lengths
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.config import EngineConfig, Levers


class Ours:
    """Training of all but the vision tower, as the peers do it, or of adapters and projector.

    Args:
        work: what is measured.
        with_reference: hold the reference beside the policy; without one its log-probs are the policy's own.
    """

    def __init__(self, work: Work, with_reference: bool) -> None:
        self.work, self._reference = work, work.reference if with_reference else None
        self._trainings: dict[str, EngineTraining] = {}

    def training(self, line: Line) -> EngineTraining:
        """The model that a line is measured with."""
        key = repr((sorted(line.levers), sorted(line.engine.items())))
        if key not in self._trainings:
            changes = {"precision": self.work.precision, "seed": SEED, **line.engine}
            config = replace(read(EngineConfig, changes, "engine"), levers=Levers.only(*line.levers))
            self._trainings[key] = EngineTraining(
                self.work.folder / "policy",
                self.work.recipe,
                self._reference,
                changes=self.work.loss,
                config=config,
                lora=self.work.adapters,
            )
        return self._trainings[key]

    def batches(self, line: Line, size: int) -> list[Batch]:
        """The global batch in micro batches of so many samples, padded to the longest row of all, as training does it."""
        groups = self._groups(line, line.micro_batch or size)
        samples = [sample for group in groups for sample in group]
        if line.full_rows:
            return self._packed(line, samples, len(groups))
        length = batch_length(samples, 1, line.shared_prefix)
        config, pixels_NCHW = self.work.sizes, self.work.pixels_NCHW
        return [batch_of(group, config, pixels_NCHW, line.shared_prefix, length) for group in groups]

    def _packed(self, line: Line, samples: Sequence[Sample], micro_batches: int) -> list[Batch]:
        """So many rows, or as few more as a sample needs, each filled with samples beside each other."""
        lengths = [sum(row_lengths(sample, line.shared_prefix)) for sample in samples]
        budget = max(max(lengths), math.ceil(1.05 * sum(lengths) / micro_batches))
        batches = []
        for places in pack(lengths, budget):
            group, length = [samples[place] for place in places], sum(lengths[place] for place in places)
            batches.append(
                batch_of(group, self.work.sizes, self.work.pixels_NCHW, line.shared_prefix, length, packed=True)
            )
        return batches

    def _groups(self, line: Line, size: int) -> list[list[Sample]]:
        samples: Sequence[Sample] = self.work.samples
        if line.shared_prefix and not self.work.pairs:
            longest = sum(len(sequence) for sample in samples for sequence in sample.sequences)
            samples = group_answers(samples, IMAGE_ID, longest)
            size = max(1, size // self.work.answers)
        return [list(samples[start : start + size]) for start in range(0, len(samples), size)]

    def with_reference(self, line: Line, batches: Sequence[Batch]) -> list[Batch]:
        """The same with log-probs of the reference, computed now."""
        training = self.training(line)
        if training.reference is not None:
            return [training.with_reference(batch) for batch in batches]
        training.reference = training.engine.model.eval()  # before training the policy is the reference
        filled = [training.with_reference(batch) for batch in batches]
        training.reference = None
        training.engine.model.train()
        return filled

    def prepared(self, line: Line, size: int) -> list[Batch]:
        """Micro batches of a line, with log-probs of the reference where the line has them cached."""
        batches = self.batches(line, size)
        return self.with_reference(line, batches) if self.work.pairs and line.cached_reference else batches

    def step(self, line: Line, batches: Sequence[Batch]) -> float:
        """One optimizer step over prepared micro batches; return its loss."""
        return self.training(line).step(batches, recompute=self.work.pairs and not line.cached_reference)

    def loss(self, line: Line, batches: Sequence[Batch]) -> float:
        """Loss of prepared micro batches without a step."""
        if self.work.pairs and not line.cached_reference:
            batches = self.with_reference(line, batches)
        return self.training(line).loss(*batches)


def real_share(batches: Sequence[Batch]) -> float:
    """Share of computed positions that are no padding."""
    segments = [batch.segment_ids_BS for batch in batches]
    return float(sum(int((ids >= 0).sum()) for ids in segments) / sum(ids.numel() for ids in segments))


def computed_positions(batches: Sequence[Batch]) -> int:
    """Positions that a forward pass over them computes, padding included."""
    return sum(batch.input_ids_BS.numel() for batch in batches)


def our_lines(side: Ours, size: int) -> Iterator[tuple[str, Runnable]]:
    """Yield ours, line by line."""
    for name, line in side.work.lines.items():
        batches = side.prepared(line, size)
        yield (
            f"{OURS}, {name}",
            Runnable(
                partial(side.loss, line, batches),
                partial(side.step, line, batches),
                real_share(batches),
                computed_positions(batches),
            ),
        )
