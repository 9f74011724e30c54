"""Messages in OpenAI's form as turns, so that rendering gives what training gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nemo_mm_align.schema.records import Turn
from nemo_mm_align.serving.pictures import PictureSource


@dataclass(frozen=True)
class Conversation:
    """Turns with ``<image>`` where pictures stand, and these in order.

    Args:
        ignored: fields of messages that nothing was made of, as ``messages.name``.
    """

    turns: tuple[Turn, ...]
    pictures: tuple[PictureSource, ...]
    ignored: tuple[str, ...] = ()


def read_messages(messages: Any, last_speaker: Literal["user", "assistant"] = "user") -> Conversation:
    """Return what the messages of a body say.

    Args:
        messages: of the body, as it came.
        last_speaker: who must have spoken last.

    Raises:
        ApiError: they are not what a model can be shown; the message says which one, and what to do.
    """
    raise NotImplementedError
