"""The formats that training data may come in, and how the first record shows which one it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.formats import llava, native, nemo_aligner
from nemo_mm_align.datasets.formats.common import Context
from nemo_mm_align.datasets.formats.keys import says_nothing

__all__ = ["FORMATS", "Context", "Format", "detect"]


@dataclass(frozen=True)
class Format:
    """A record format.

    Args:
        keys: that a record of this format has.
        parse: from a record, its id and the context to a `Draft`; raises `MalformedRecord`.
        used: keys of a record that are read; what becomes of others says `formats.keys`.
        messages: keys of messages that are read, by the key of the record that holds them.
    """

    keys: tuple[str, ...]
    parse: Callable[[Mapping[str, Any], str, Context], Draft]
    used: tuple[str, ...]
    messages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


FORMATS = {
    "records": Format(("turns",), native.parse_record, native.RECORD_KEYS, {"turns": native.TURN_KEYS}),
    "nemo_steerlm": Format(
        ("conversations", "mask"),
        nemo_aligner.parse_steerlm,
        nemo_aligner.STEERLM_KEYS,
        {"conversations": nemo_aligner.STEERLM_MESSAGE_KEYS},
    ),
    "llava": Format(
        ("conversations",), llava.parse_conversation, llava.CONVERSATION_KEYS, {"conversations": llava.MESSAGE_KEYS}
    ),
    "llava_dpo": Format(
        ("question", "chosen", "rejected"),
        llava.parse_dpo,
        llava.DPO_KEYS,
        dict.fromkeys(("question", "chosen", "rejected"), llava.ANSWER_KEYS),
    ),
    "nemo_dpo": Format(
        ("prompt", "chosen_response", "rejected_response"), nemo_aligner.parse_dpo, nemo_aligner.DPO_KEYS
    ),
    "messages": Format(
        ("messages",),
        native.parse_messages,
        native.MESSAGES_KEYS,
        dict.fromkeys(("messages", "prompt"), native.TURN_KEYS),
    ),
    "messages_dpo": Format(
        ("chosen", "rejected"),
        native.parse_message_pairs,
        native.PAIR_KEYS,
        dict.fromkeys(("prompt", "chosen", "rejected"), native.TURN_KEYS),
    ),
    "messages_kto": Format(
        ("prompt", "completion"),
        native.parse_labelled,
        native.LABELLED_KEYS,
        dict.fromkeys(("prompt", "completion"), native.TURN_KEYS),
    ),
}
"""In the order in which they are tried: the first whose keys the record has is its format."""


def detect(record: Mapping[str, Any], source: str) -> str:
    """Return the name of the first format whose keys `record` has, or raise `UserError` listing the formats."""
    given = {key for key, value in record.items() if not says_nothing(key, value)}
    for keys in (given, set(record)):  # a null column does not hide what the record holds
        for name, form in FORMATS.items():
            if keys.issuperset(form.keys):
                return name
    known = "; ".join(f"{name} ({', '.join(form.keys)})" for name, form in FORMATS.items())
    found = shorten(", ".join(record), 300)
    raise UserError(f"{source}: the first record has the keys {found}, which is no known format: {known}.")
