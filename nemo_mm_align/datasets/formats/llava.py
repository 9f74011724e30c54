"""LLaVA's conversation JSON, and the preference records of the LLaVA alignment paper's authors (arXiv 2402.10884)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.formats.common import (
    RATING_KEYS,
    SCORE_KEYS,
    Context,
    extra_fields,
    image_list,
    message_text,
    number_field,
    score_fields,
    turn_list,
)

CONVERSATION_KEYS = ("id", "image", "images", "conversations", "metadata")
MESSAGE_KEYS = ("from", "value")
ANSWER_KEYS = (*MESSAGE_KEYS, "role", "content")
REFERENCE_KEYS = ("ref_win_logp", "ref_rej_logp")
DERIVED_KEYS = ("ref_win_avg_logp", "ref_rej_avg_logp", "ref_win_per_token_logp", "ref_rej_per_token_logp")
"""Of the reference log-probs that the authors store, the sums are used; these say the same once more, at length."""
DPO_KEYS = (
    "id",
    "image",
    "images",
    "question",
    "chosen",
    "rejected",
    "metadata",
    *REFERENCE_KEYS,
    *DERIVED_KEYS,
    *SCORE_KEYS,
    *RATING_KEYS,
)


def parse_conversation(record: Mapping[str, Any], record_id: str, context: Context) -> Draft:
    """``{id, image: path | list, conversations: [{from: human | gpt, value}]}``."""
    turns = turn_list(record, "conversations", "from", "value")
    metadata = extra_fields(record, CONVERSATION_KEYS)
    return Draft(record_id, image_list(record), turns, extras={"metadata": metadata})


def parse_dpo(record: Mapping[str, Any], record_id: str, context: Context) -> Draft:
    """``{question, chosen, rejected, image}``, each text a ``{from, value}`` dict, its string, or plain text.

    ``ref_win_logp`` and ``ref_rej_logp`` (sums over answer tokens, in nats) are taken over where both are there.
    """
    question = message_text(record, "question", "user")
    answers = (
        message_text(record, "chosen", "assistant").strip(),
        message_text(record, "rejected", "assistant").strip(),
    )
    draft = Draft(record_id, image_list(record), [["user", question]], answers)
    reference = [number_field(record, key) for key in REFERENCE_KEYS]
    if (reference[0] is None) != (reference[1] is None):
        draft.fault("reference", "only one of ref_win_logp and ref_rej_logp is there.", "give both or neither.")
    if any(value is not None and value > 0 for value in reference):
        problem = f"a reference log-prob is positive: {reference[0]}, {reference[1]}."
        draft.fault("reference", problem, "give sums of log-probs over the answer's tokens, or leave them out.")
    draft.extras = {
        **score_fields(record),
        "reference_chosen_log_prob": reference[0],
        "reference_rejected_log_prob": reference[1],
        "metadata": extra_fields(record, DPO_KEYS),
    }
    return draft
