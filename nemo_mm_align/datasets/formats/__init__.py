"""The formats that training data may come in, and how the first record shows which one it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.formats import llava, native, nemo_aligner
from nemo_mm_align.datasets.formats.common import Context
from nemo_mm_align.errors import UserError

__all__ = ["FORMATS", "Context", "Format", "detect"]


@dataclass(frozen=True)
class Format:
    """A record format.

    Args:
        keys: that a record of this format has.
        parse: from a record, its id and the context to a `Draft`; raises `MalformedRecord`.
    """

    keys: tuple[str, ...]
    parse: Callable[[Mapping[str, Any], str, Context], Draft]


FORMATS = {
    "records": Format(("turns",), native.parse_record),
    "nemo_steerlm": Format(("conversations", "mask"), nemo_aligner.parse_steerlm),
    "llava": Format(("conversations",), llava.parse_conversation),
    "llava_dpo": Format(("question", "chosen", "rejected"), llava.parse_dpo),
    "nemo_dpo": Format(("prompt", "chosen_response", "rejected_response"), nemo_aligner.parse_dpo),
    "messages": Format(("messages",), native.parse_messages),
    "messages_dpo": Format(("chosen", "rejected"), native.parse_messages),
}
"""In the order in which they are tried: the first whose keys the record has is its format."""


def detect(record: Mapping[str, Any], source: str) -> str:
    """Return the name of the first format whose keys `record` has, or raise `UserError` listing the formats."""
    for name, form in FORMATS.items():
        if all(key in record for key in form.keys):
            return name
    known = "; ".join(f"{name} ({', '.join(form.keys)})" for name, form in FORMATS.items())
    raise UserError(f"{source}: the first record has the keys {', '.join(record)}, which is no known format: {known}.")
