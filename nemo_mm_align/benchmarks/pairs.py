"""Random preference pairs: texts and images for the peers, the same ids and pixels for the engine.

Shapes: B rows, S positions, N images, C channels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from nemo_mm_align.benchmarks.random_models import END_ID, IMAGE_ID, PAD_ID, SPECIAL
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.rows import batch_length
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.schema.prompts import EncodedSequence


@dataclass(frozen=True)
class PairSizes:
    """How long prompts and answers are.

    Args:
        pairs: per micro batch.
        prompt_words: text tokens of a prompt, beside those of its image.
        answer_words: least and most tokens of an answer, without the stop token.
    """

    pairs: int
    prompt_words: int
    answer_words: tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """One prompt with an image and two answers, as token ids."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    pixels: numpy.ndarray

    def record(self) -> dict[str, Any]:
        """The pair as TRL's data set wants it: texts and a PIL image."""
        from PIL import Image

        text = {name: " ".join(map(_word, getattr(self, name))) for name in ("prompt", "chosen", "rejected")}
        return {**text, "prompt": f"<image> {text['prompt']}", "images": [Image.fromarray(self.pixels)]}


def _word(token: int) -> str:
    return f"w{token}"


def draw_pairs(config: LlavaConfig, sizes: PairSizes, seed: int) -> list[Pair]:
    """Draw `sizes.pairs` pairs; answers end with the stop token once they are encoded."""
    source, pixels = random.Random(seed), numpy.random.default_rng(seed)
    side = config.vision.image_size

    def words(count: int) -> list[int]:
        return [source.randrange(len(SPECIAL), config.language.vocab_size) for _ in range(count)]

    return [
        Pair(
            words(sizes.prompt_words),
            words(source.randint(*sizes.answer_words)),
            words(source.randint(*sizes.answer_words)),
            pixels.integers(0, 256, (side, side, 3), dtype=numpy.uint8),
        )
        for _ in range(sizes.pairs)
    ]


def prompt_ids(pair: Pair, config: LlavaConfig) -> list[int]:
    """Image tokens, then the prompt's words."""
    return [IMAGE_ID] * config.tokens_per_image + pair.prompt


def _sequence(pair: Pair, answer: list[int], config: LlavaConfig) -> EncodedSequence:
    prompt = prompt_ids(pair, config)
    return EncodedSequence([*prompt, *answer, END_ID], [False] * len(prompt) + [True] * (len(answer) + 1))


def samples_of(pairs: Sequence[Pair], config: LlavaConfig, chosen_only: bool = False) -> list[Sample]:
    """The pairs as samples of the engine; with `chosen_only` as single answers."""
    return [
        Sample(
            f"pair-{number}",
            [Path(f"{number}")],
            [
                _sequence(pair, answer, config)
                for answer in ([pair.chosen] if chosen_only else [pair.chosen, pair.rejected])
            ],
        )
        for number, pair in enumerate(pairs)
    ]


def batch_of(
    samples: Sequence[Sample],
    config: LlavaConfig,
    pixels_NCHW: Tensor,
    shared_prefix: bool = False,
    length: int | None = None,
    packed: bool = False,
) -> Batch:
    """One micro batch of samples with given pixels; rows of `length`, or as long as the longest needs; `packed`: one row."""
    images = pixels_NCHW.numpy()
    return collate(
        samples,
        length or batch_length(samples, 1, shared_prefix),
        PAD_ID,
        IMAGE_ID,
        config.tokens_per_image,
        lambda path, _: images[int(path.name)],
        shared_prefix,
        packed=packed,
    )


def random_pixels(pairs: Sequence[Pair]) -> Tensor:
    """Pixels without a processor's part in them, float32 [N, C, H, W]."""
    images_NHWC = torch.from_numpy(numpy.stack([pair.pixels for pair in pairs])).float()
    return (images_NHWC.permute(0, 3, 1, 2) / 127.5 - 1).contiguous()


def positions(batch: Batch) -> int:
    """Positions of a batch that are not padding."""
    return int((batch.segment_ids_BS >= 0).sum())
