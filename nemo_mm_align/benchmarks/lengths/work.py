"""One measurement of this part: a model, a recipe, numbers, and the global batch that both sides are given."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_mm_align.benchmarks.agreed import SEED
from nemo_mm_align.benchmarks.lengths.draw import (
    Drawn,
    answer_records,
    answer_samples,
    draw,
    pair_records,
    pair_samples,
)
from nemo_mm_align.benchmarks.lengths.settings import Distribution, Line
from nemo_mm_align.benchmarks.recipes import CONDITIONED
from nemo_mm_align.core.configuration import Count, StrictModel
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.config import LlavaConfig, LoRAConfig
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.images import ImageProcessor


class Work(StrictModel):
    """What is measured.

    Args:
        folder: with the models ``policy`` and ``reference``.
        prompts: of the global batch.
        answers: to each prompt.
        adapters: trained instead of the language model, on our side, which is then alone.
        micro_batches: sizes that both sides try; the quickest is taken.
        lines: ours, by name; the others are held against the first.
        pairs_loss: settings of pairs' losses under names that both sides have.
    """

    recipe: str
    sizes: LlavaConfig
    folder: Path
    distribution: Distribution
    prompts: Count
    answers: Count
    adapters: LoRAConfig | None = None
    micro_batches: list[Count]
    rounds: Count
    precision: str
    lines: dict[str, Line]
    pairs_loss: dict[str, Any] = {}

    @property
    def pairs(self) -> bool:
        """Whether samples are pairs with a reference; else they are single answers."""
        return find_recipe(self.recipe).objective.needs_reference

    @property
    def loss(self) -> dict[str, Any]:
        """Settings of the recipe that are not to be its defaults."""
        return self.pairs_loss if self.pairs else {}

    @property
    def reference(self) -> Path | None:
        """Folder of the reference, of pairs."""
        return self.folder / "reference" if self.pairs else None

    @functools.cached_property
    def drawn(self) -> list[Drawn]:
        """The global batch."""
        with_lines = self.recipe == CONDITIONED
        return draw(self.sizes, self.distribution, self.prompts, self.answers, with_lines, SEED)

    @property
    def samples(self) -> list[Sample]:
        """The global batch as this engine's samples."""
        return pair_samples(self.drawn, self.sizes) if self.pairs else answer_samples(self.drawn, self.sizes)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The same as TRL's."""
        return pair_records(self.drawn) if self.pairs else answer_records(self.drawn)

    @functools.cached_property
    def pixels_NCHW(self) -> Tensor:
        """Pictures as every training of this engine sees them."""
        from PIL import Image

        processor = ImageProcessor(image_size=self.sizes.vision.image_size)
        return torch.stack([torch.from_numpy(processor(Image.fromarray(one.pixels))) for one in self.drawn])

    @property
    def tokens(self) -> int:
        """Positions of all sequences, each by itself, without padding: what every line's tokens/s count."""
        return sum(len(sequence) - 1 for sample in self.samples for sequence in sample.sequences)
