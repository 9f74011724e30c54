"""What stands on top of a language model's hidden states beside its vocabulary; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from nemo_mm_align.configuration import STRICT

Pooling = Literal["last", "mean"]


@dataclass(frozen=True)
class HeadConfig:
    """A linear head without bias that turns one hidden state per sequence into numbers.

    Args:
        outputs: what the numbers are, in order; attributes of a schema, for example.
        pooling: which hidden state it is: of the sequence's last token, or the mean over its tokens.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    outputs: Annotated[tuple[str, ...], Field(min_length=1)]
    pooling: Pooling

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for a checkpoint's metadata, as JSON holds it."""
        return {"outputs": list(self.outputs), "pooling": self.pooling}
