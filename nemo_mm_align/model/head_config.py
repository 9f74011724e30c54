"""What stands on top of a language model's hidden states beside its vocabulary; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from nemo_mm_align.core.configuration import STRICT

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


def left_out(folder: str | Path, head: dict[str, Any], here: dict[str, Any] | None) -> str:
    """Return what is to be said of a folder's head that a training does not go on with.

    Args:
        here: the training's own, if it has one.
    """
    beginning = "this training has none" if here is None else f"this training's is {here} and begins anew"
    return (
        f"{folder}: was trained with the head {head}, which is left out: {beginning}. "
        "Its language model was trained to be read by it"
    )
