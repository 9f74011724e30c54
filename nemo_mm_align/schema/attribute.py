"""One attribute of a schema: its name, range, direction and rubric."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator, model_validator

from nemo_mm_align.core.errors import UserError, shorten

FRACTION_STEPS = 5
"""Values that a sweep over an attribute of fractions takes, both ends included."""

FRACTION_BINS = 20
"""Bins of a histogram over a range of fractions."""


Number = Annotated[float, Field(strict=True)]
"""A text is none, whatever it spells."""


def spelling(name: str) -> str:
    """Return a name as it is compared: case, blanks, underscores and marks make no difference."""
    return re.sub(r"[\W_]+", "", name).lower()


class Attribute(BaseModel):
    """One scored property of an answer.

    Args:
        name: identifier used in records and overrides, for example ``verbosity``.
        minimum, maximum: inclusive range of scores.
        integer: whether scores are whole numbers.
        higher_is_better: direction; ``None`` for a matter of taste (complexity, verbosity), which never enters a score.
        default: the value asked for at inference where the user asks for nothing; left out, the better end of the
            range, or its middle for a matter of taste.
        description: what the judge is told to look at.
        levels: rubric text per score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    minimum: Number = 0
    maximum: Number = 4
    integer: StrictBool = True
    higher_is_better: StrictBool | None = True
    default: Number = math.nan  # always given or filled in by `_best_by_default`
    description: str = ""
    levels: dict[int | float, str] = {}

    @property
    def label(self) -> str:
        """Name as it stands in the steering string: first letter capitalised, as in the paper."""
        return self.name[0].upper() + self.name[1:]

    @field_validator("name")
    @classmethod
    def _can_be_asked_for(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise ValueError(
                f"{name!r} cannot be the name of an attribute: it stands in overrides (attributes.NAME=...) and in "
                "NAME:value,NAME:value; use letters, digits, - and _, beginning with a letter"
            )
        return name

    @field_validator("levels", mode="before")
    @classmethod
    def _levels_are_numbers(cls, levels: Any) -> Any:
        if not isinstance(levels, Mapping):
            return levels
        numbers = {_number(level): text for level, text in levels.items()}
        if len(numbers) < len(levels):
            raise ValueError(f"levels {list(levels)} name a score twice")
        return numbers

    @model_validator(mode="before")
    @classmethod
    def _best_by_default(cls, values: Any) -> Any:
        """Fill in a missing default here, so that it is part of what is stored, hashed and shown."""
        if not isinstance(values, Mapping) or values.get("default") is not None:
            return values
        try:
            low, high = float(values.get("minimum", 0)), float(values.get("maximum", 4))
        except (TypeError, ValueError, OverflowError):
            low, high = 0.0, 4.0  # the fields themselves are then refused
        middle = float((low + high) // 2) if values.get("integer", True) else (low + high) / 2
        direction = values.get("higher_is_better", True)
        default = middle if direction is None else low if direction in (False,) else high
        return {**values, "default": default}

    @field_validator("minimum", "maximum", "default", mode="before")
    @classmethod
    def _is_a_number(cls, value: Any) -> Any:
        if isinstance(value, bool):  # which Python counts among the numbers
            raise ValueError(f"{value} is no number")
        return value

    @model_validator(mode="after")
    def _range_holds(self) -> Attribute:
        ends = f"{self.minimum:g}..{self.maximum:g}"
        if not (math.isfinite(self.minimum) and math.isfinite(self.maximum)):
            raise ValueError(f"attribute {self.name}: the range {ends} has no end")
        if not self.minimum < self.maximum:
            raise ValueError(f"attribute {self.name}: minimum {self.minimum} is not below maximum {self.maximum}")
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError(f"attribute {self.name}: default {self.default} outside {ends}")
        if self.integer and any(value != int(value) for value in (self.minimum, self.maximum, self.default)):
            raise ValueError(
                f"attribute {self.name}: range {ends} and default {self.default:g} must be whole numbers, "
                "or set integer: false"
            )
        outside = [level for level in self.levels if not self.minimum <= level <= self.maximum]
        if outside:
            raise ValueError(f"attribute {self.name}: levels {outside} outside {ends}")
        return self

    def check(self, value: Any) -> float:
        """Return `value` as a number of this attribute, or raise `UserError` naming the allowed range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(
                f"{self.name}={shorten(repr(value), 60)} is not a number; give one from {self.minimum:g} to {self.maximum:g}."
            )
        if not self.minimum <= value <= self.maximum:
            shown = f"{value:g}" if abs(value) < sys.float_info.max else "a number beyond any float"
            raise UserError(f"{self.name}={shown} is outside {self.minimum:g} to {self.maximum:g}.")
        if self.integer and value != int(value):
            raise UserError(f"{self.name}={value:g} is not a whole number from {self.minimum:g} to {self.maximum:g}.")
        return int(value) if self.integer else float(value)

    def clamped(self, value: float) -> float:
        """Return the value of the range that is nearest to a number."""
        return min(max(value, self.minimum), self.maximum)

    def nearest(self, value: float) -> float:
        """Return the score that is nearest to a number; of two whole ones that are equally near, the even one."""
        return self.check(round(self.clamped(value)) if self.integer else self.clamped(value))

    @property
    def bins(self) -> int | None:
        """Bins of a histogram over the range; None: one for each whole number."""
        return None if self.integer else FRACTION_BINS

    def steps(self) -> list[float]:
        """Return the values of a sweep: the whole numbers of the range, or five evenly spaced fractions."""
        if self.integer:
            return [float(value) for value in range(int(self.minimum), int(self.maximum) + 1)]
        width = self.maximum - self.minimum
        return [self.minimum + width * step / (FRACTION_STEPS - 1) for step in range(FRACTION_STEPS)]


def _number(level: Any) -> Any:
    """Return a level as int or float (JSON and YAML may hold it as text); what is no number goes on as it is."""
    try:
        value = float(level)
    except (TypeError, ValueError, OverflowError):
        return level
    if isinstance(level, bool):
        raise ValueError(f"level {level} is no number")
    return int(value) if value.is_integer() else value
