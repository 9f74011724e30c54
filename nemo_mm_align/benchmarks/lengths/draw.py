"""Prompts with pictures and answers of unequal length, drawn as random token ids; the same for both sides."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from nemo_mm_align.benchmarks.lengths.settings import Distribution
from nemo_mm_align.benchmarks.random_models import END_ID, END_WORD, IMAGE_ID, SPECIAL
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.schema.prompts import EncodedSequence

Words = list[int]


@dataclass(frozen=True)
class Drawn:
    """A prompt about a picture with its answers, as words; `prompts` differ where they carry a line of attributes.

    Args:
        prompts: one for each answer.
        answers: without the stop token.
        pixels: uint8 [H, W, C].
    """

    prompts: list[Words]
    answers: list[Words]
    pixels: NDArray[numpy.uint8]

    def sample_ids(self, answer: int, config: LlavaConfig) -> EncodedSequence:
        """Picture, prompt and answer as this engine takes them."""
        prompt = [IMAGE_ID] * config.tokens_per_image + self.prompts[answer]
        ids = [*prompt, *self.answers[answer], END_ID]
        return EncodedSequence(ids, [False] * len(prompt) + [True] * (len(ids) - len(prompt)))

    @property
    def longest(self) -> int:
        """Words of its longest prompt and answer."""
        return max(len(prompt) + len(answer) for prompt, answer in zip(self.prompts, self.answers, strict=True))


def draw(
    config: LlavaConfig, lengths: Distribution, prompts: int, answers: int, with_lines: bool, seed: int
) -> list[Drawn]:
    """Draw prompts with so many answers each.

    Args:
        with_lines: prompts end with a line of attributes, as of conditioned answers.
    """
    source, pixels = random.Random(seed), numpy.random.default_rng(seed)
    deviates = random.Random(seed + 1)  # by itself: the number of words drawn changes no length
    side, scale = config.vision.image_size, config.tokens_per_image / lengths.image

    def words(count: int) -> Words:
        return [source.randrange(len(SPECIAL), config.language.vocab_size) for _ in range(count)]

    def one() -> Drawn:
        question = words(lengths.prompt.tokens(deviates.gauss(0, 1), scale))
        text = words(round(scale * lengths.line_text) if with_lines else 0)
        values = round(scale * lengths.line_values) if with_lines else 0
        shared = math.sqrt(lengths.likeness) * deviates.gauss(0, 1)
        own = math.sqrt(1 - lengths.likeness)
        sizes = [lengths.answer.tokens(shared + own * deviates.gauss(0, 1), scale) for _ in range(answers)]
        return Drawn(
            [question + text + words(values) for _ in sizes],
            [words(size) for size in sizes],
            pixels.integers(0, 256, (side, side, 3), dtype=numpy.uint8),
        )

    return [one() for _ in range(prompts)]


def pair_samples(drawn: Sequence[Drawn], config: LlavaConfig) -> list[Sample]:
    """Each prompt as one sample of all its answers."""
    return [
        Sample(f"prompt-{number}", [Path(str(number))], [one.sample_ids(k, config) for k in range(len(one.answers))])
        for number, one in enumerate(drawn)
    ]


def answer_samples(drawn: Sequence[Drawn], config: LlavaConfig) -> list[Sample]:
    """Each answer as a sample of its own, named as `scripts/build.py` names answers to one prompt."""
    return [
        Sample(f"prompt-{number}#{k}", [Path(str(number))], [one.sample_ids(k, config)])
        for number, one in enumerate(drawn)
        for k in range(len(one.answers))
    ]


def pair_records(drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """Pairs as TRL's data set wants them: texts and a PIL image."""
    return [
        {"prompt": _prompt(one, 0), "chosen": _answer(one, 0), "rejected": _answer(one, 1), "images": [_image(one)]}
        for one in drawn
    ]


def answer_records(drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """Single answers, likewise."""
    return [
        {"prompt": _prompt(one, k), "completion": _answer(one, k), "images": [_image(one)]}
        for one in drawn
        for k in range(len(one.answers))
    ]


def _prompt(one: Drawn, answer: int) -> str:
    return " ".join(["<image>", *(f"w{token}" for token in one.prompts[answer])])


def _answer(one: Drawn, answer: int) -> str:
    return " ".join([*(f"w{token}" for token in one.answers[answer]), END_WORD])


def _image(one: Drawn) -> Any:
    from PIL import Image

    return Image.fromarray(one.pixels)
