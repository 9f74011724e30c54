"""A rater that one rank leads: it alone knows what is to be rated, and the other ranks of its replica follow it.

Samples and pixels are broadcast with each batch, so that a server can rate what came to one rank, in any layout.

Shapes: A answers of a sample, T outputs of the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy
import torch
from megatron.core import parallel_state
from numpy.typing import NDArray
from torch import Tensor

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.inference.rating import Rater, rate_answers

Pixels = Mapping[str, NDArray[numpy.float32]]
"""Normalised pixels [C, H, W] of pictures by name."""

_Told = tuple[list[Sample], dict[str, NDArray[numpy.float32]]]


class LedRater:
    """On the replica's first rank `rate`, on the others `follow`.

    Leaving the block ends the others' `follow`, unless a batch was interrupted: they are in the middle of it then, and the
    process has to end, with which its launcher ends theirs. While nothing is asked the leader calls `beat` now and then: a
    broadcast that waits for longer than the process group's time-out is taken for a dead rank.

    Args:
        rater: this rank's, of the only replica.
        length: positions of the model.
    """

    def __init__(self, rater: Rater, length: int) -> None:
        self.length = length
        self._rater = replace(rater, load=self._load)
        self._pixels: Pixels = {}
        self._group = parallel_state.get_model_parallel_group()
        self._leader = min(torch.distributed.get_process_group_ranks(self._group))
        self._within_batch = False

    @property
    def leads(self) -> bool:
        """Whether this rank leads its replica."""
        return torch.distributed.get_rank() == self._leader

    @property
    def is_whole(self) -> bool:
        """Whether no other rank follows this one."""
        return bool(self._group.size() == 1)

    @property
    def max_batch_tokens(self) -> int:
        """See `Rater.max_batch_tokens`."""
        return self._rater.max_batch_tokens

    def row_length(self, sample: Sample) -> int:
        """See `Rater.row_length`."""
        return self._rater.row_length(sample)

    def rate(self, samples: Sequence[Sample], pixels: Pixels) -> list[Tensor]:
        """Return the outputs of the head for each sample, fp32 [A, T] on the host.

        Args:
            samples: at least one; their `image_paths` are names of `pixels`.
        """
        self._tell((list(samples), dict(pixels)))
        self._within_batch = not self.is_whole
        outputs = self._rated(samples, pixels)
        self._within_batch = False
        return outputs

    def beat(self) -> None:
        """Let the others know that this rank lives."""
        self._tell(([], {}))

    def follow(self) -> None:
        """Do what the leader does, until it leaves."""
        while (told := self._tell(None)) is not None:
            if told[0]:
                self._rated(*told)

    def _rated(self, samples: Sequence[Sample], pixels: Pixels) -> list[Tensor]:
        self._pixels = pixels
        try:
            return rate_answers(self._rater, samples, progress=False)
        finally:
            self._pixels = {}

    def _load(self, name: Path) -> NDArray[numpy.float32]:
        return self._pixels[str(name)]

    def _tell(self, told: _Told | None) -> _Told | None:
        """Broadcast what the leader says; None is that it leaves."""
        box = [told]
        if not self.is_whole:
            torch.distributed.broadcast_object_list(box, self._leader, group=self._group)
        return box[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.leads and not self._within_batch:
            self._tell(None)
