"""Dialogues that both sides are asked: noise as pictures, random words as questions, drawn by a seed."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy
from PIL import Image

from nemo_mm_align.benchmarks.random_models import SPECIAL
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.schema.records import Turn

Kind = Literal["distinct", "repeated", "conversations"]
KINDS: tuple[Kind, ...] = get_args(Kind)
QUESTIONS_PER_PICTURE = 4
"""Of the kind ``repeated``; as many are asked one after the other where one is asked at a time."""
TURNS = 3
"""Of a conversation."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, as a client sends it and as it is."""

    image: Image.Image
    url: str = field(init=False)

    def __post_init__(self) -> None:
        file = io.BytesIO()
        self.image.save(file, "PNG", compress_level=1)
        object.__setattr__(self, "url", f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}")


@dataclass(frozen=True)
class Dialogue:
    """Questions about a picture, each asked once the one before is answered."""

    picture: Picture
    questions: tuple[str, ...]

    def turns(self, answers: Sequence[str]) -> tuple[Turn, ...]:
        """Return the conversation up to the question after so many answers."""
        asked = [Turn(role="user", content=f"<image>\n{self.questions[0]}")]
        for answer, question in zip(answers, self.questions[1:], strict=False):
            asked += [Turn(role="assistant", content=answer), Turn(role="user", content=question)]
        return tuple(asked)

    def messages(self, answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return the same as OpenAI's protocol has it."""
        first, *later = self.turns(answers)
        shown = {"type": "image_url", "image_url": {"url": self.picture.url}}
        parts = [shown, {"type": "text", "text": self.questions[0]}]
        return [
            {"role": first.role, "content": parts},
            *({"role": turn.role, "content": turn.content} for turn in later),
        ]


class Drawer:
    """Draws pictures and questions for a model.

    Args:
        config: of the model, whose words and picture size are used.
        words: of a question, the least and the most.
        seed: of everything.
        pictures: how many there are, from which later ones are drawn; None: none comes twice.
    """

    def __init__(self, config: LlavaConfig, words: Sequence[int], seed: int, pictures: int | None = None) -> None:
        self._most, self._pictures = pictures, list[Picture]()
        self._side, self._vocabulary, self._words = config.vision.image_size, config.language.vocab_size, tuple(words)
        self._random, self._noise = random.Random(seed), numpy.random.default_rng(seed)

    def picture(self) -> Picture:
        """Noise, of the size that the model sees."""
        if self._most is not None and len(self._pictures) == self._most:
            return self._random.choice(self._pictures)
        noise_HWC = self._noise.integers(0, 256, (self._side, self._side, 3), dtype=numpy.uint8)
        picture = Picture(Image.fromarray(noise_HWC))
        if self._most is not None:
            self._pictures.append(picture)
        return picture

    def question(self) -> str:
        """Words that the tokenizer knows."""
        count = self._random.randint(*self._words)
        return " ".join(f"w{self._random.randrange(len(SPECIAL), self._vocabulary)}" for _ in range(count))

    def dialogues(self, kind: Kind, at_a_time: int) -> list[Dialogue]:
        """Draw a round's work for so many clients."""
        if kind == "conversations":
            return [Dialogue(self.picture(), tuple(self.question() for _ in range(TURNS))) for _ in range(at_a_time)]
        count = max(at_a_time, QUESTIONS_PER_PICTURE)
        pictures = [self.picture() for _ in range(count if kind == "distinct" else count // QUESTIONS_PER_PICTURE)]
        return [Dialogue(pictures[number % len(pictures)], (self.question(),)) for number in range(count)]
