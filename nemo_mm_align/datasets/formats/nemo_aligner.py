"""NeMo-Aligner's JSONL: DPO pairs whose texts carry role markers already, and SteerLM conversations with labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.draft import Draft, parse_labels
from nemo_mm_align.datasets.faults import MalformedRecord, Problem
from nemo_mm_align.datasets.formats.common import (
    Context,
    extra_fields,
    image_list,
    number_field,
    text_field,
    turn_list,
)

DPO_KEYS = (
    "id",
    "image",
    "images",
    "prompt",
    "chosen_response",
    "rejected_response",
    "chosen_reward",
    "rejected_reward",
    "metadata",
)
STEERLM_KEYS = ("id", "image", "images", "system", "mask", "type", "conversations", "metadata")
STEERLM_MESSAGE_KEYS = ("from", "value", "label")

TURN_MARKER = re.compile(r"(?:^|\n)?<extra_id_(0|1)>(System|User|Assistant)\n")
MARKER = re.compile(r"<extra_id_\d>")


def parse_dpo(record: Mapping[str, Any], record_id: str, context: Context) -> Draft:
    """``{prompt, chosen_response, rejected_response, chosen_reward, rejected_reward}``.

    The prompt is ``<extra_id_0>System\\n...\\n<extra_id_1>User\\n...\\n<extra_id_1>Assistant\\n``, a response
    ``...\\n<extra_id_1>``.
    """
    turns = _split_prompt(text_field(record, "prompt"))
    answers = (_answer(record, "chosen_response"), _answer(record, "rejected_response"))
    draft = Draft(record_id, image_list(record), turns, answers)
    scores = [number_field(record, key) for key in ("chosen_reward", "rejected_reward")]
    metadata = extra_fields(record, DPO_KEYS)
    draft.extras = {"chosen_score": scores[0], "rejected_score": scores[1], "metadata": metadata}
    return draft


def _split_prompt(prompt: str) -> list[list[str]]:
    start, *pieces = TURN_MARKER.split(prompt)
    contents = [content.removesuffix("\n") for content in pieces[2::3]]
    turns = [[role.lower(), content] for role, content in zip(pieces[1::3], contents, strict=True)]
    if start.strip() or not turns or turns[-1] != ["assistant", ""]:
        raise _unmarked(
            "prompt", "must be <extra_id_0>System, <extra_id_1>User, ... turns and end with <extra_id_1>Assistant"
        )
    turns = [turn for turn in turns[:-1] if turn != ["system", ""]]
    if any(MARKER.search(content) for _, content in turns):
        raise _unmarked("prompt", "holds a marker inside a turn; labels (<extra_id_2>) belong to the SteerLM format")
    return turns


def _answer(record: Mapping[str, Any], key: str) -> str:
    text = text_field(record, key).rstrip().removesuffix("<extra_id_1>").strip()
    if MARKER.search(text):
        raise _unmarked(key, "must be one answer, with at most <extra_id_1> behind it")
    return text


def _unmarked(key: str, what: str) -> MalformedRecord:
    return MalformedRecord(Problem("markers", f"{key} {what}.", "write the texts as NeMo-Aligner's DPO guide shows."))


def parse_steerlm(record: Mapping[str, Any], record_id: str, context: Context) -> Draft:
    """``{system, mask: User, type: VALUE_TO_TEXT, conversations: [{from, value, label}]}``.

    The last answer's labels become the example's attributes; labels of earlier answers become attribute lines of the
    questions before them.
    """
    for key, expected in (("mask", "User"), ("type", "VALUE_TO_TEXT")):
        if record.get(key) not in (None, expected):
            problem = Problem("field", f"{key} is {record[key]!r}.", f"only {key}={expected!r} can be trained on here.")
            raise MalformedRecord(problem)
    turns = turn_list(record, "conversations", "from", "value")
    labels = [message.get("label") for message in record["conversations"]]
    if record.get("system"):
        turns, labels = [["system", text_field(record, "system")], *turns], [None, *labels]
    draft = Draft(record_id, image_list(record), turns)
    draft.extras = {"metadata": extra_fields(record, STEERLM_KEYS)}
    _apply_labels(draft, labels, context)
    return draft


def _apply_labels(draft: Draft, labels: list[Any], context: Context) -> None:
    for index, label in enumerate(labels):
        if not label:
            continue
        if draft.turns[index][0] != "assistant":
            draft.fault("labels", "a turn of the user's has a label.", "labels belong to the assistant's turns.")
            continue
        if context.schema is None:
            draft.fault("labels", "there are labels, but no attribute schema.", "set attribute_schema.")
            return
        values = parse_labels(draft, str(label), context.schema, context.ignore_labels)
        if index == len(labels) - 1:
            draft.attributes = values
        elif values and draft.turns[index - 1][0] == "user":
            _append_line(draft, draft.turns[index - 1], values, context)


def _append_line(draft: Draft, turn: list[str], values: dict[str, float], context: Context) -> None:
    assert context.schema is not None
    try:
        turn[1] += "\n" + context.schema.steering_line(values)
    except UserError as error:
        draft.fault("attribute_value", str(error), "give every attribute of the schema an allowed value.")
