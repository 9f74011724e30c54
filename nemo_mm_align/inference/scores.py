"""From what a head tells of an answer to scores of its attribute schema."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.attributes import AttributeSchema

_DECIMALS = 4
"""What is kept of a number: layouts and batches round differently beyond."""


def predicted(schema: AttributeSchema, outputs: Sequence[float]) -> dict[str, float]:
    """Return the outputs of one answer by attribute, each within its range.

    Raises:
        UserError: an output that is no number.
    """
    if not all(map(math.isfinite, outputs)):
        raise UserError(
            "the model tells values that are no finite numbers. Take precision=fp32, or an earlier checkpoint, whose weights are "
            "sound."
        )
    return {
        attribute.name: round(attribute.clamped(value), _DECIMALS)
        for attribute, value in zip(schema.attributes, outputs, strict=True)
    }


def scores(schema: AttributeSchema, values: Mapping[str, float]) -> dict[str, float]:
    """Return the scores of the schema that are nearest to predicted values: whole numbers where it wants these."""
    return {name: schema[name].nearest(value) for name, value in values.items()}
