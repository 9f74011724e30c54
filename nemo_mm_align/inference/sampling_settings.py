"""What the user can set of sampling; needs no torch, so that a mistake is found before anything slow is imported."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from nemo_mm_align.core.errors import UserError

LEAST_TEMPERATURE = 1e-5
"""Logits divided by less leave the range of float32."""


@dataclass(frozen=True)
class SamplingSettings:
    """What to sample.

    Args:
        temperature: divisor of the logits; 0 takes the most probable token (greedy).
        top_p: keep the smallest set of tokens whose probability reaches this share; 1 keeps all.
        top_k: keep this many of the most probable tokens; 0 keeps all. Applied before `top_p`, as in transformers.
        max_new_tokens: an answer without stop token is cut there, with finish reason ``length``.
        num_samples: answers per prompt.
        seed: of the random numbers.
        stop: texts that end an answer, which then is what stands before the first of them.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 1024
    num_samples: int = 1
    seed: int = 1234
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or LEAST_TEMPERATURE <= self.temperature < math.inf):
            raise UserError(
                f"temperature={self.temperature:g}: must be 0 (greedy) or above, and then at least {LEAST_TEMPERATURE:g}."
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p:g}: must be above 0 and at most 1 (1 keeps every token).")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k}: must be 0 (keeps every token) or the number of tokens to keep.")
        if self.max_new_tokens < 1 or self.num_samples < 1:
            raise UserError("max_new_tokens and num_samples must be at least 1.")
        if isinstance(self.stop, str):
            raise UserError(f"stop={self.stop!r}: give a list of texts, [{self.stop!r}].")
        object.__setattr__(self, "stop", tuple(self.stop))
        if "" in self.stop:
            raise UserError("stop holds an empty text, which would end every answer; [] is none.")
        if self.greedy and self.num_samples > 1:
            raise UserError(
                f"num_samples={self.num_samples} with temperature=0 gives the same answer {self.num_samples} times; "
                "set num_samples=1 or a temperature above 0."
            )

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, as it is stored beside the answers; stop texts only where there are any."""
        values = asdict(self)
        stop = list(values.pop("stop"))
        return {**values, **({"stop": stop} if stop else {})}
