"""A bare loop over transformers' LLaVA, the peer of single answers: its passes and loss, torch's fused AdamW, clipping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.lengths.trl import FP32, Inputs, Numbers
from nemo_mm_align.benchmarks.peers import adamw, load_llava, padded_rows
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.parallel.optim_config import OptimConfig


class TransformersAnswers:
    """The model with its optimizer; micro batches are padded to their longest, their loss is summed and divided once.

    Args:
        folder: of the model.
        samples: the global batch, of one sequence each.
        pixels_NCHW: of all pictures; a sample's path is its picture's number.
    """

    def __init__(
        self,
        folder: Path,
        samples: Sequence[Sample],
        pixels_NCHW: torch.Tensor,
        optim: OptimConfig,
        numbers: Numbers = FP32,
    ) -> None:
        self.model: Any = load_llava(folder, numbers.weights).train()
        self._samples, self._pixels_NCHW, self._numbers, self._clip = samples, pixels_NCHW, numbers, optim.clip_grad
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = adamw(self.parameters, optim)

    def micro_batches(self, size: int, by_length: bool = False) -> list[Inputs]:
        """The global batch in micro batches of `size`; with `by_length` those of about one length go together."""
        samples = list(self._samples)
        if by_length:
            samples.sort(key=lambda sample: len(sample.sequences[0]))
        return [self._inputs(samples[start : start + size]) for start in range(0, len(samples), size)]

    def _inputs(self, samples: Sequence[Sample]) -> Inputs:
        pictures = [int(path.name) for sample in samples for path in sample.image_paths]
        pixels_NCHW = self._pixels_NCHW[pictures].to(self._numbers.weights)
        return {**padded_rows(samples), "pixel_values": pixels_NCHW}

    def loss(self, batches: Sequence[Inputs]) -> float:
        """Loss of the global batch without a step."""
        items = _labelled(batches)
        with torch.no_grad():
            return sum(float(self._loss(batch, items)) for batch in batches)

    def step(self, batches: Sequence[Inputs]) -> float:
        """One optimizer step over all micro batches; return its loss."""
        total, items = 0.0, _labelled(batches)
        for batch in batches:
            loss = self._loss(batch, items)
            loss.backward()
            total += float(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters, self._clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _loss(self, batch: Inputs, items: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._numbers.autocast):
            loss: torch.Tensor = self.model(**batch, use_cache=False, num_items_in_batch=items).loss
        return loss


def _labelled(batches: Sequence[Inputs]) -> torch.Tensor:
    return torch.stack([(batch["labels"] != -100).sum() for batch in batches]).sum()
