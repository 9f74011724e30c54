"""Answers with their ratings, as they stand in a record: checked against the schema, fractions allowed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.faults import Problem
from nemo_mm_align.schema.attribute import spelling
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import RatedAnswer

SAME_TEXT = Problem(
    "same_answers", "two answers are the same text.", "keep one of them, with the mean of their values."
)
ASKS_FOR_ATTRIBUTES = Problem(
    "attribute_line", "the question asks for attributes.", "remove that line: answers are rated as they are."
)


def known_ratings(values: Mapping[str, Any], schema: AttributeSchema) -> dict[str, float]:
    """Return the values of an answer in schema order: within their ranges, fractions too; a missing one is left out.

    Raises:
        UserError: an attribute that the schema does not have, or a value that is no number or out of range.
    """
    checked = {}
    for name, value in values.items():
        checked[name] = schema[name].model_copy(update={"integer": False}).check(value)
    return {name: float(checked[name]) for name in schema.names if name in checked}


def check_ratings(
    ratings: Sequence[Mapping[str, Any]], schema: AttributeSchema | None, ignored: Collection[str] = ()
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return every answer's values, checked where there is a schema, and what is wrong with them.

    Args:
        ignored: labels outside the schema that are left out without a fault.
    """
    left_out, found, problems = set(map(spelling, ignored)), [], []
    for number, given in enumerate(ratings):
        values = {name: value for name, value in given.items() if spelling(name) not in left_out}
        try:
            found.append(dict(values) if schema is None else known_ratings(values, schema))
        except UserError as error:
            remedy = f"give attributes of schema {schema.name!r} alone, each within its range." if schema else ""
            problems.append(Problem("attribute_value", f"answers[{number}]: {error}", remedy))
        if not values:
            problem = f"answers[{number}] has no attribute."
            problems.append(Problem("no_attribute", problem, "give it a value, or remove the answer."))
    return found, problems


def rated_answers(texts: Sequence[str], ratings: Sequence[Mapping[str, float]]) -> tuple[RatedAnswer, ...]:
    """Return the answers of a record."""
    pairs = zip(texts, ratings, strict=True)
    return tuple(RatedAnswer(text=text, attributes=dict(values)) for text, values in pairs)
