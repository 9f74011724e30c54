"""A person's answer: from the fields of a form to ratings in file order, and back for a correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.items import in_file_order
from nemo_mm_align.labeling.judge_ledger import JudgeAttempt
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema

MAX_TEXT = 20_000
REFERENCE_FIELD = "reference"


class FormError(UserError):
    """An answer that cannot be saved as it is: incomplete, out of range, or overtaken by another one."""


@dataclass(frozen=True)
class Answer:
    """What a person says of a prompt's candidates: `ratings` and `reasoning` in the order of the candidates file."""

    ratings: tuple[dict[str, float], ...]
    reasoning: tuple[str, ...]
    reference_answer: str | None

    @classmethod
    def of(cls, attempt: JudgeAttempt) -> Answer:
        """Return the answer that stands in a line of the ledger."""
        return cls(attempt.ratings, attempt.reasoning, attempt.reference_answer)


def score_field(position: int, name: str) -> str:
    """Return the form field of an attribute of the candidate shown at a position (from 1)."""
    return f"score-{position}-{name}"


def note_field(position: int) -> str:
    """Return the form field of the reasoning on the candidate shown at a position (from 1)."""
    return f"note-{position}"


def read_answer(form: Mapping[str, str], order: Sequence[int], schema: AttributeSchema) -> Answer:
    """Return the answer in a form whose candidates were shown in `order`.

    Raises:
        FormError: a score is missing or out of range.
    """
    positions = range(1, len(order) + 1)
    ratings = [
        {each.name: read_score(form.get(score_field(position, each.name), ""), each) for each in schema.attributes}
        for position in positions
    ]
    reasoning = [_text(form.get(note_field(position), "")) for position in positions]
    reference = _text(form.get(REFERENCE_FIELD, "")) or None
    return Answer(tuple(in_file_order(ratings, order)), tuple(in_file_order(reasoning, order)), reference)


def fill_form(answer: Answer, order: Sequence[int]) -> dict[str, str]:
    """Return the fields of a form that hold an answer, candidates shown in `order`."""
    fields = {REFERENCE_FIELD: answer.reference_answer or ""}
    for position, index in enumerate(order, start=1):
        fields[note_field(position)] = answer.reasoning[index]
        for name, value in answer.ratings[index].items():
            fields[score_field(position, name)] = repr(value).removesuffix(".0")
    return fields


def read_score(text: str, attribute: Attribute) -> float:
    """Return a score as it stands in a form, or raise `FormError`."""
    try:
        return attribute.check(float(text.strip().replace(",", ".")))
    except UserError as error:
        raise FormError(str(error)) from None
    except ValueError:
        problem = f"{text.strip()[:20]!r} is not a number" if text.strip() else "is missing"
        raise FormError(f"{attribute.name}: {problem}; give every candidate a score.") from None


def _text(field: str) -> str:
    return field.strip()[:MAX_TEXT]
