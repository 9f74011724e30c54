"""How likely an answer has an attribute at a value, when a model or a judge told another: log P(a | x, y)."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema

EDGE = 0.01
"""Share of the range: what is told is no surer than that to lie at its very end, where the distribution would be a single point
and every other value impossible."""


def log_likelihood(
    schema: AttributeSchema, wanted: Mapping[str, float], told: Mapping[str, float], concentration: float
) -> float:
    """Return log P(a | x, y), nats: the sum over the attributes in `wanted`.

    Args:
        wanted: values of some of the schema's attributes.
        told: of the answer, fractions too; of these attributes at least.
        concentration: see `value_probability`.
    """
    return sum(
        math.log(value_probability(schema[name], value, told[name], concentration)) for name, value in wanted.items()
    )


def value_probability(attribute: Attribute, value: float, told: float, concentration: float) -> float:
    """Return the probability of a value where another was told.

    With r = (told - minimum) / (maximum - minimum), kept `EDGE` off both ends, it is what Beta(c r, c (1 - r)) has in the
    value's bin (Wang et al., arXiv 2406.08673, section 4.5, where c is 24). Bins reach half-way to the next values and end
    with the range: what is told falls into the bin of the score that it would be rounded to, and the probabilities of all scores
    add up to 1. Of an attribute of fractions, bins are as wide as a sweep's steps are apart.
    """
    from scipy.special import betainc  # a tenth of a second, which every help that names a builder would take

    width = attribute.maximum - attribute.minimum
    share = min(max((told - attribute.minimum) / width, EDGE), 1 - EDGE)
    centre, half = (value - attribute.minimum) / width, 0.5 / (len(attribute.steps()) - 1)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    first, second = concentration * share, concentration * (1 - share)
    if centre > share:  # the mirrored one: a difference of numbers near 1 would lose what is small
        first, second, low, high = second, first, 1 - high, 1 - low
    return max(float(betainc(first, second, high) - betainc(first, second, low)), sys.float_info.min)
