"""A record of any format on its way to an example: the checks that all formats share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.datasets.faults import Problem
from nemo_mm_align.datasets.rated import ASKS_FOR_ATTRIBUTES, SAME_TEXT, check_ratings, rated_answers
from nemo_mm_align.schema.attribute import spelling
from nemo_mm_align.schema.attributes import PLACEHOLDER, STEERING_LINE, AttributeSchema
from nemo_mm_align.schema.examples import (
    Example,
    LabelledExample,
    PreferenceExample,
    RatedAnswers,
    SteeredAnswers,
    TrainingExample,
)
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Turn

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Valid in JSON's escapes, but no text: no tokenizer and no file can take it."""

PAPER_HEAD = STEERING_LINE.removesuffix(PLACEHOLDER)
"""The sentence that begins an attribute turn in the paper's data."""


@dataclass
class Draft:
    """What a format's parser found. Roles are ``system``, ``user`` and ``assistant`` already.

    Args:
        id: of the record.
        images: paths as written; a `Path` is one that needs no resolving.
        turns: [role, content] pairs; of a preference, up to the question.
        answers: chosen and rejected of a preference, the labelled one, or all rated ones; None for a conversation to imitate.
        label: of the labelled one, whether it is desirable.
        ratings: attributes of each of the rated ones.
        fit: of each answer, log-likelihood and log-prior: how it fits what the prompt asks for.
        attributes: of the last answer.
        flip_attributes: of a pair, under which the other answer is the better one.
        extras: other fields of the example (scores, reference log-probs, metadata).
        problems: found so far.
        tied: the scores of a pair are equal.
    """

    id: str
    images: list[str | Path]
    turns: list[list[str]]
    answers: tuple[str, ...] | None = None
    ratings: list[dict[str, Any]] | None = None
    label: bool | None = None
    fit: list[dict[str, float | None]] | None = None
    attributes: dict[str, Any] | None = None
    flip_attributes: dict[str, Any] | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    tied: bool = False

    def fault(self, kind: str, problem: str, remedy: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, problem, remedy))

    def last_user_turn(self) -> list[str] | None:
        """Return the turn that an attribute line belongs to."""
        return next((turn for turn in reversed(self.turns) if turn[0] == "user"), None)


def check(
    draft: Draft, schema: AttributeSchema | None, ignore_labels: Sequence[str] = (), add_placeholders: bool = False
) -> None:
    """Add all problems that are visible in the text; an attribute line in the last user turn becomes `attributes`.

    Args:
        add_placeholders: ``<image>`` is put in front of the first question where there are images and none of it.
    """
    _check_order(draft)
    _check_scores(draft)
    _check_text(draft)
    if add_placeholders:
        _add_placeholders(draft)
    _check_placeholders(draft)
    _check_attribute_lines(draft, schema)
    _take_attribute_line(draft, schema, ignore_labels)
    _check_ratings(draft, schema, ignore_labels)
    _check_attributes(draft, schema)


def finish(draft: Draft, resolve: Callable[[str], Path]) -> Example | None:
    """Resolve the image paths and build the example; None where the draft has problems.

    Args:
        draft: checked already.
        resolve: from a path as written to where the image lies; raises `UserError`.
    """
    images = resolve_images(draft, resolve)
    if draft.problems:
        return None
    turns = tuple(Turn.model_validate({"role": role, "content": content}) for role, content in draft.turns)
    values = {"id": draft.id, "images": tuple(images), "turns": turns, **draft.extras}
    try:
        if draft.answers is not None and draft.ratings is not None:
            return RatedAnswers(answers=rated_answers(draft.answers, draft.ratings), **values)
        values["attributes"] = draft.attributes
        if draft.answers is not None and draft.fit is not None:
            pairs = zip(draft.answers, draft.fit, strict=True)
            answers = [{"text": text, **fit} for text, fit in pairs]
            return SteeredAnswers.model_validate({**values, "answers": answers})
        if draft.answers is None:
            return TrainingExample(**values)
        if draft.label is not None:
            return LabelledExample(answer=draft.answers[0], label=draft.label, **values)
        chosen, rejected = draft.answers
        return PreferenceExample(chosen=chosen, rejected=rejected, flip_attributes=draft.flip_attributes, **values)
    except ValidationError as error:  # what no check above looks for
        for item in error.errors():
            place, problem = ".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")
            draft.fault("field", f"{place}: {problem}." if place else f"{problem}.", "correct the field.")
        return None


def resolve_images(draft: Draft, resolve: Callable[[str], Path]) -> list[str]:
    """Return where a draft's images lie; a path that `resolve` refuses becomes a problem of the draft."""
    images = []
    for image in draft.images:
        try:
            images.append(str(image if isinstance(image, Path) else resolve(image)))
        except UserError as error:
            draft.fault("image_path", str(error), "correct the path or set image_root.")
    return images


def _check_order(draft: Draft) -> None:
    roles = [role for role, _ in draft.turns]
    body = roles[1:] if roles[:1] == ["system"] else roles
    last = "user" if draft.answers is not None else "assistant"
    expected = ["user" if index % 2 == 0 else "assistant" for index in range(len(body))]
    if body != expected or not body or body[-1] != last:
        problem = f"the turns are {', '.join(roles) or 'none'}."
        draft.fault("turn_order", problem, f"user and assistant in turns, ending with {last}.")


SCORE_NAMES = (("score_chosen", "score_rejected"), ("chosen_rating", "rejected_rating"))
"""What other people call the scores of a pair, which then stand in its metadata."""


def _check_scores(draft: Draft) -> None:
    """Note a pair whose scores say the opposite, unless `build` swapped it on purpose (label noise)."""
    metadata = {key.replace("-", "_").lower(): value for key, value in draft.extras.get("metadata", {}).items()}
    pairs = [(draft.extras.get("chosen_score"), draft.extras.get("rejected_score"))]
    pairs += [(metadata.get(chosen), metadata.get(rejected)) for chosen, rejected in SCORE_NAMES]
    is_pair = draft.answers is not None and draft.ratings is None and draft.label is None and draft.fit is None
    if not is_pair or metadata.get("flipped") is True:
        return
    for chosen, rejected in pairs:
        if isinstance(chosen, int | float) and isinstance(rejected, int | float):
            draft.tied |= chosen == rejected
            if chosen < rejected:
                problem = f"chosen scores {shorten(f'{chosen}', 20)}, below rejected's {shorten(f'{rejected}', 20)}."
                remedy = "swap the answers, or remove the scores; those of another objective (MODPO) belong in ratings."
                draft.fault("score_order", problem, remedy)


def _check_text(draft: Draft) -> None:
    answers = [content for role, content in draft.turns if role == "assistant"] + list(draft.answers or ())
    names = [draft.id, *(image for image in draft.images if isinstance(image, str))]
    if any(LONE_SURROGATE.search(text) for text in [*answers, *names, *(content for _, content in draft.turns)]):
        draft.fault("text", "a text holds half of a character (a lone surrogate).", "write the record anew as UTF-8.")
    if any(not text.strip() for text in answers):
        draft.fault("empty_answer", "an answer is empty.", "fill it in or remove the record.")
    if any(not content.strip() for role, content in draft.turns if role == "user"):
        draft.fault("empty_question", "a user turn is empty.", "fill it in or remove the record.")
    if draft.answers is not None and (draft.ratings is not None or draft.fit is not None):
        if len({text.strip() for text in draft.answers}) < len(draft.answers):
            draft.problems.append(SAME_TEXT)
    elif draft.label is None and draft.answers and draft.answers[0].strip() == draft.answers[1].strip():
        draft.fault("same_answers", "chosen and rejected are the same text.", "remove the pair.")


def _count_placeholders(draft: Draft) -> int:
    return sum(content.count(IMAGE_PLACEHOLDER) for role, content in draft.turns if role == "user")


def _add_placeholders(draft: Draft) -> None:
    question = next((turn for turn in draft.turns if turn[0] == "user"), None)
    if question is not None and draft.images and not _count_placeholders(draft):
        question[1] = f"{IMAGE_PLACEHOLDER}\n" * len(draft.images) + question[1]


def _check_placeholders(draft: Draft) -> None:
    count = _count_placeholders(draft)
    if count != len(draft.images):
        problem = f"{count} {IMAGE_PLACEHOLDER} placeholders for {len(draft.images)} images."
        option = ", or set data.add_image_placeholders=true to put it in front of the question" if not count else ""
        draft.fault("image_count", problem, f"write {IMAGE_PLACEHOLDER} once per image{option}.")
    other = [content for role, content in draft.turns if role != "user"] + list(draft.answers or ())
    if any(IMAGE_PLACEHOLDER in text for text in other):
        problem = f"{IMAGE_PLACEHOLDER} stands outside a user turn."
        draft.fault("image_outside_question", problem, "move it into the question or remove it.")


_VALUES = r"\s*[A-Za-z][\w -]*:\s*-?[\d.]+"
"""How the values of an attribute line begin."""


def _lines(text: str, schema: AttributeSchema | None) -> list[str]:
    """Return the beginnings of the attribute lines in a text: the paper's sentence, wherever it stands, and the schema's own
    where it begins a line and values follow (a short one could be anybody's words)."""
    paper = PAPER_HEAD.strip()
    found = [paper] * text.count(paper)
    own = schema.steering_head.strip() if schema else paper
    return found + (re.findall(rf"(?:^|(?<=\n)){re.escape(own)}(?={_VALUES})", text) if own != paper else [])


def _check_attribute_lines(draft: Draft, schema: AttributeSchema | None) -> None:
    last = draft.last_user_turn()
    for number, turn in enumerate(draft.turns, start=1):
        lines = len(_lines(turn[1], schema))
        if lines > 1:
            problem = f"turn {number} carries the attribute line {lines} times."
            draft.fault("attribute_line_repeated", problem, "keep the one that describes the answer.")
        if lines and turn is last and draft.attributes is not None:
            problem = f"turn {number} carries an attribute line, and the record has attributes as well."
            draft.fault("attributes_twice", problem, "remove the line from the text.")


def _take_attribute_line(draft: Draft, schema: AttributeSchema | None, ignore_labels: Sequence[str]) -> None:
    """Turn a single attribute line in the last user turn into `attributes`, so that its values are checked."""
    turn = draft.last_user_turn()
    if schema is None or turn is None or draft.attributes is not None:
        return
    found = _lines(turn[1], schema)
    if len(found) != 1:
        return
    question, _, labels = turn[1].rpartition(found[0])
    draft.attributes = parse_labels(draft, labels.strip(), schema, ignore_labels)
    turn[1] = question.removesuffix("\n")


def parse_labels(
    draft: Draft, text: str, schema: AttributeSchema, ignore_labels: Sequence[str] = ()
) -> dict[str, float] | None:
    """Parse ``helpfulness:4,Verbosity:2`` into values by attribute name, noting what the schema does not know.

    In labels, case, hyphens and underscores make no difference. Those in `ignore_labels` are left out. Returns None
    where nothing could be parsed.
    """
    names = {spelling(name): name for name in schema.names}
    ignored = set(map(spelling, ignore_labels))
    values: dict[str, float] = {}
    unknown = []
    for label, number in _split_labels(draft, text):
        name = names.get(spelling(label))
        if name is not None:
            if name in values:
                draft.fault("label_twice", f"label {label} is given twice.", "keep one.")
            values[name] = number
        elif spelling(label) not in ignored:
            unknown.append(label)
    if unknown:
        problem = f"labels {', '.join(unknown)} are not in the attribute schema {schema.name!r}."
        draft.fault("unknown_label", problem, f"use a schema that has them, or ignore_labels=[{','.join(unknown)}].")
    return values or None


def _split_labels(draft: Draft, text: str) -> Iterator[tuple[str, float]]:
    for item in text.split(","):
        label, _, value = item.strip().rpartition(":")
        try:
            yield label.strip(), float(value)
        except ValueError:
            draft.fault("label_syntax", f"{item.strip()!r} is not a label.", "write name:value,name:value,...")


def _check_ratings(draft: Draft, schema: AttributeSchema | None, ignore_labels: Sequence[str]) -> None:
    if draft.ratings is None:
        return
    draft.ratings, problems = check_ratings(draft.ratings, schema, ignore_labels)
    draft.problems += problems
    if draft.attributes is not None:
        draft.problems.append(ASKS_FOR_ATTRIBUTES)
        draft.attributes = None


def _check_attributes(draft: Draft, schema: AttributeSchema | None) -> None:
    if schema is None:
        return
    try:
        if draft.attributes is not None:
            draft.attributes = schema.check_asked(draft.attributes)
        if draft.flip_attributes is not None:
            draft.flip_attributes = schema.check_asked(draft.flip_attributes)
    except UserError as error:
        asked = ", ".join(attribute.name for attribute in schema.asked)
        remedy = f"give each attribute that schema {schema.name!r} asks for ({asked}) an allowed value."
        draft.fault("attribute_value", str(error), remedy)
