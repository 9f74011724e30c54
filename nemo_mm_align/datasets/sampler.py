"""Which samples make up which training step: a pure function of seed and step, so that a resumed run needs no state."""

from __future__ import annotations

import functools
import math

import numpy

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.arithmetic import check_batches

NOTABLE = 0.05
"""Share of the epochs asked for by which a run may exceed them without a word: its last batch is filled up."""


class GlobalBatchSampler:
    """Cut an endless row of seeded permutations of the data into global batches.

    Every epoch shows every sample once. The last batch of an epoch is filled from the next one, so that all batches have
    the same size and nothing is dropped.

    Args:
        num_samples: size of the training set.
        global_batch_size: samples per optimizer step over all ranks.
        micro_batch_size: samples per forward pass of one rank; None where these follow from a budget of positions.
        data_parallel_size: replicas of the model.
        seed: of the permutations.
        shuffle: false keeps the file's order.

    Raises:
        UserError: the global batch cannot be divided so.
    """

    def __init__(
        self,
        num_samples: int,
        global_batch_size: int,
        micro_batch_size: int | None,
        data_parallel_size: int,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        if num_samples < 1:
            raise UserError("data.train holds no sample to train on.")
        check_batches(global_batch_size, micro_batch_size, data_parallel_size)
        self.num_samples, self.global_batch_size = num_samples, global_batch_size
        self.micro_batch_size, self.data_parallel_size = micro_batch_size, data_parallel_size
        self.seed, self.shuffle = seed, shuffle
        self._permutation = functools.lru_cache(maxsize=4)(self._make_permutation)

    def num_steps(self, epochs: float) -> int:
        """Optimizer steps after which every sample was seen `epochs` times."""
        return max(1, math.ceil(self.num_samples * epochs / self.global_batch_size - 1e-9))

    def surplus(self, epochs: float) -> str:
        """Say how much more than `epochs` the steps of whole batches are, where that is more than `NOTABLE`; else ""."""
        steps = self.num_steps(epochs)
        real = steps * self.global_batch_size / self.num_samples
        if real <= epochs * (1 + NOTABLE):
            return ""
        batches = self.num_samples * epochs / self.global_batch_size
        return (
            f"{self.num_samples:,} samples make {batches:.3g} batches of {self.global_batch_size:,}, and a step takes a whole "
            f"one: {steps:,} steps, {real:.3g} epochs. A smaller model.global_batch_size, or trainer.max_steps, comes nearer."
        )

    def _make_permutation(self, epoch: int) -> numpy.ndarray:
        if not self.shuffle:
            return numpy.arange(self.num_samples)
        return numpy.random.default_rng([self.seed, epoch]).permutation(self.num_samples)

    def global_batch(self, step: int) -> list[int]:
        """Indices of the samples of a step, in order."""
        start = step * self.global_batch_size
        positions = range(start, start + self.global_batch_size)
        return [int(self._permutation(p // self.num_samples)[p % self.num_samples]) for p in positions]

    def micro_batches(self, data_parallel_rank: int) -> list[list[int]]:
        """This rank's share of every step, one list for each forward pass: places in `global_batch`.

        Raises:
            ValueError: micro batches have no fixed number of samples.
        """
        if self.micro_batch_size is None:
            raise ValueError("micro batches have no fixed number of samples: `training.packing` lays them out")
        places = range(data_parallel_rank, self.global_batch_size, self.data_parallel_size)
        return [
            list(places[start : start + self.micro_batch_size])
            for start in range(0, len(places), self.micro_batch_size)
        ]
