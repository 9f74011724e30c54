"""LLaVA's conversation JSON, and the preference records of the LLaVA alignment paper's authors (arXiv 2402.10884)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.formats.common import (
    SCORE_KEYS,
    Context,
    extra_fields,
    image_list,
    message_text,
    number_field,
    score_fields,
    turn_list,
)

CONVERSATION_KEYS = ("id", "image", "images", "conversations")
DPO_KEYS = ("id", "image", "images", "question", "chosen", "rejected", "ref_win_logp", "ref_rej_logp", *SCORE_KEYS)


def parse_conversation(record: Mapping[str, Any], record_id: str, context: Context) -> Draft:
    """``{id, image: path | list, conversations: [{from: human | gpt, value}]}``."""
    turns = turn_list(record, "conversations", "from", "value")
    metadata = extra_fields(record, CONVERSATION_KEYS)
    return Draft(record_id, image_list(record), turns, extras={"metadata": metadata})


def parse_dpo(record: Mapping[str, Any], record_id: str, context: Context) -> Draft:
    """``{question, chosen, rejected, image}``, each text a ``{from, value}`` dict, its string, or plain text.

    ``ref_win_logp`` and ``ref_rej_logp`` (sums over answer tokens, in nats) are taken over where both are there.
    """
    question = message_text(record, "question")
    answers = (message_text(record, "chosen").strip(), message_text(record, "rejected").strip())
    draft = Draft(record_id, image_list(record), [["user", question]], answers)
    reference = [number_field(record, key) for key in ("ref_win_logp", "ref_rej_logp")]
    if (reference[0] is None) != (reference[1] is None):
        draft.fault("reference", "only one of ref_win_logp and ref_rej_logp is there.", "give both or neither.")
    draft.extras = {
        **score_fields(record),
        "reference_chosen_log_prob": reference[0],
        "reference_rejected_log_prob": reference[1],
        "metadata": extra_fields(record, DPO_KEYS),
    }
    return draft
