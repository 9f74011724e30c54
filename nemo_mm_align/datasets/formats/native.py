"""This project's own records (`records.py`) and conversations in the shape of Hugging Face's chat messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.faults import MalformedRecord, Problem
from nemo_mm_align.datasets.formats.common import (
    RATING_KEYS,
    SCORE_KEYS,
    Context,
    extra_fields,
    image_list,
    label_field,
    malformed,
    mapping_field,
    number_field,
    score_fields,
    text_field,
    turn_list,
)
from nemo_mm_align.schema.examples import (
    LabelledExample,
    PreferenceExample,
    RatedAnswer,
    RatedAnswers,
    SteeredAnswer,
    SteeredAnswers,
    TrainingExample,
)
from nemo_mm_align.schema.records import Conversation

NUMBERS = ("reference_chosen_log_prob", "reference_rejected_log_prob")
FIT = ("log_likelihood", "log_prior")
RECORDS: tuple[type[Conversation], ...] = (
    TrainingExample,
    PreferenceExample,
    LabelledExample,
    RatedAnswers,
    SteeredAnswers,
)
RECORD_KEYS = tuple({key: None for record in RECORDS for key in record.model_fields})
MESSAGES_KEYS = ("id", "image", "images", "messages", "prompt", "metadata")
PAIR_KEYS = ("id", "image", "images", "prompt", "chosen", "rejected", "metadata", *SCORE_KEYS, *RATING_KEYS)
LABELLED_KEYS = ("id", "image", "images", "prompt", "completion", "label", "score", "metadata")
TURN_KEYS = ("role", "content")


def parse_record(record: Mapping[str, Any], record_id: str, context: Context) -> Draft:
    """A `TrainingExample`; a `PreferenceExample` where there is a ``chosen``, a `LabelledExample` where there is an
    ``answer``; where there are ``answers``, `RatedAnswers`, or `SteeredAnswers` if one of these has a ``log_likelihood``.

    Unknown keys are faults.
    """
    has_answers, is_pair = "answers" in record, "chosen" in record or "rejected" in record
    is_steered = has_answers and any("log_likelihood" in answer for answer in _answers(record))
    is_rated = has_answers and not is_steered
    is_labelled = not has_answers and not is_pair and ("answer" in record or "label" in record)
    is_one: dict[type[Conversation], bool] = {
        SteeredAnswers: is_steered,
        RatedAnswers: is_rated,
        PreferenceExample: is_pair,
        LabelledExample: is_labelled,
    }
    known: type[Conversation] = next((kind for kind, is_it in is_one.items() if is_it), TrainingExample)
    turns = turn_list(record, "turns", "role", "content")
    draft = Draft(record_id, image_list(record), turns, extras={"metadata": mapping_field(record, "metadata") or {}})
    if is_rated:
        answers = _take_answers(draft, record, set(RatedAnswer.model_fields))
        draft.ratings = [mapping_field(answer, "attributes") or {} for answer in answers]
    elif is_steered:
        answers = _take_answers(draft, record, set(SteeredAnswer.model_fields))
        draft.fit = [{key: number_field(answer, key) for key in FIT} for answer in answers]
        if len(answers) < 2:
            draft.fault("field", "one answer alone cannot be weighed.", "give two or more, or remove the record.")
    elif is_pair:
        draft.answers = (text_field(record, "chosen"), text_field(record, "rejected"))
        draft.extras |= score_fields(record) | {key: number_field(record, key) for key in NUMBERS}
        draft.flip_attributes = mapping_field(record, "flip_attributes")
    elif is_labelled:
        draft.answers, draft.label = (text_field(record, "answer"),), label_field(record, "label")
        draft.extras["score"] = number_field(record, "score")
    draft.attributes = None if is_rated else mapping_field(record, "attributes")
    for key in set(record) - set(known.model_fields):
        draft.fault("unknown_key", f"unknown key {key!r}.", "extras belong in metadata.")
    return draft


def _answers(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    answers = record["answers"]
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, Mapping) for answer in answers):
        raise malformed("answers", answers, "a list of at least one {text, attributes}")
    return answers


def _take_answers(draft: Draft, record: Mapping[str, Any], known: set[str]) -> list[Mapping[str, Any]]:
    answers = _answers(record)
    draft.answers = tuple(text_field(answer, "text") for answer in answers)
    unknown = {key for answer in answers for key in answer} - known
    for key in sorted(map(str, unknown)):
        draft.fault("unknown_key", f"unknown key {key!r} of an answer.", "extras belong in metadata.")
    return answers


def parse_messages(record: Mapping[str, Any], record_id: str, context: Context) -> Draft:
    """``{messages}`` of ``{role, content}``, with ``image`` or ``images``.

    Content is a string or a list of image and text parts. A ``prompt`` beside them may only say the first question again.
    """
    turns = turn_list(record, "messages", "role", "content")
    draft = Draft(record_id, image_list(record), turns, extras={"metadata": extra_fields(record, MESSAGES_KEYS)})
    questions = [turn for turn in turns if turn[0] != "system"]
    if record.get("prompt") and _messages(record, "prompt", "user")[-1:] != questions[:1]:
        draft.fault("field", "prompt is not the first question of messages.", "keep one of the two keys.")
    return draft


def parse_message_pairs(record: Mapping[str, Any], record_id: str, context: Context) -> Draft:
    """``{prompt, chosen, rejected}``, each a text or a list of ``{role, content}`` messages, with ``image`` or ``images``.

    Without a prompt, chosen and rejected are whole conversations that differ in the last message.
    """
    extras: dict[str, Any] = {"metadata": extra_fields(record, PAIR_KEYS), **score_fields(record)}
    chosen, rejected = (_messages(record, key, "assistant") for key in ("chosen", "rejected"))
    prompt = _messages(record, "prompt", "user") if record.get("prompt") else chosen[:-1]
    for key, messages in (("chosen", chosen), ("rejected", rejected)):
        if messages[:-1] not in ([], prompt) or messages[-1][0] != "assistant":
            problem = f"{key} is not the prompt with one answer."
            raise MalformedRecord(Problem("field", problem, "chosen and rejected must answer the same prompt."))
    answers = (chosen[-1][1].strip(), rejected[-1][1].strip())
    return Draft(record_id, image_list(record), prompt, answers, extras=extras)


def parse_labelled(record: Mapping[str, Any], record_id: str, context: Context) -> Draft:
    """``{prompt, completion, label}``: texts or lists of ``{role, content}`` messages, and true or false, with ``image`` or
    ``images``."""
    prompt, completion = _messages(record, "prompt", "user"), _messages(record, "completion", "assistant")
    if [role for role, _ in completion] != ["assistant"]:
        problem = f"completion has the turns {', '.join(role for role, _ in completion)}."
        raise MalformedRecord(Problem("field", problem, "it must be one answer; earlier turns belong to the prompt."))
    extras = {"score": number_field(record, "score"), "metadata": extra_fields(record, LABELLED_KEYS)}
    label = label_field(record, "label")
    return Draft(record_id, image_list(record), prompt, (completion[0][1].strip(),), label=label, extras=extras)


def _messages(record: Mapping[str, Any], key: str, role: str) -> list[list[str]]:
    value = record.get(key)
    return [[role, value]] if isinstance(value, str) else turn_list(record, key, "role", "content")
