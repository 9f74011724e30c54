"""What attributes' ratings of an answer come to: shared by all tasks whose answers are rated."""

from __future__ import annotations

from collections.abc import Mapping

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.schema.attributes import AttributeSchema

CORRECTNESS = "correctness"
"""The attribute whose highest value makes an answer count as correct."""

JUDGED = Measure(name="judged", label="Judged attributes", better=None, grouped=True)
BY_SOURCE = Measure(name="correctness_by_source", label="Correct by source", share=True, grouped=True)
CORRECT = Measure(name=CORRECTNESS, label="Correct", share=True, about="Correct: answers judged entirely correct.")
WORDS = Measure(name="length_words", label="Words", better=None, digits=1)


def score_measure(schema: AttributeSchema) -> Measure:
    """Return the sum that candidates are ranked by, as a measure."""
    label = f"Score (of {schema.perfect_total:g})"
    return Measure(name="score", label=label, about=f"Score: {' + '.join(schema.score)}, as judged.")


def values_of(
    ratings: Mapping[str, float], schema: AttributeSchema, prompt_id: str, source: str = ""
) -> dict[str, float]:
    """Return the values of a rated answer: its score, each attribute, and whether it is entirely correct.

    Raises:
        UserError: a rating of the schema is missing or out of range.
    """
    try:
        checked = schema.check(ratings)
    except UserError as error:
        raise UserError(f"ratings of prompt {prompt_id}: {error}") from None
    values = {f"judged.{name}": value for name, value in checked.items()}
    values["score"] = schema.total(checked)
    if CORRECTNESS in checked:
        values[CORRECTNESS] = float(checked[CORRECTNESS] == schema[CORRECTNESS].maximum)
        if source:
            values[f"{BY_SOURCE.name}.{source}"] = values[CORRECTNESS]
    return values
