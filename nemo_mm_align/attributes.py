"""The attribute schema: the one source for judge prompt, training template, checkpoint metadata and report.

A schema names the attributes a judge scores and a SteerLM model is conditioned on, their range, direction and rubric.
The default is HelpSteer's five attributes, integers 0 to 4 (Wang et al., arXiv 2311.09528, appendix A.1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nemo_mm_align.errors import UserError

STEERING_LINE = (
    "Please answer the question such that your response is in the following attributes "
    "in 5-point Likert scale:\n{attributes}"
)
"""The paper's attribute turn (Li, Lin and Pei, arXiv 2402.10884), appended to the user turn after a newline."""


class Attribute(BaseModel):
    """One scored property of an answer.

    Args:
        name: identifier used in records and overrides, for example ``verbosity``.
        minimum, maximum: inclusive range of scores.
        integer: whether scores are whole numbers.
        higher_is_better: direction; ``None`` for a matter of taste (complexity, verbosity), which never enters a score.
        default: the value asked for at inference where the user asks for nothing.
        description: what the judge is told to look at.
        levels: rubric text per score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    minimum: float = 0
    maximum: float = 4
    integer: bool = True
    higher_is_better: bool | None = True
    default: float = 4
    description: str = ""
    levels: dict[int, str] = {}

    @property
    def label(self) -> str:
        """Name as it stands in the steering string: first letter capitalised, as in the paper."""
        return self.name[0].upper() + self.name[1:]

    @model_validator(mode="after")
    def _range_holds(self) -> Attribute:
        if not self.minimum < self.maximum:
            raise ValueError(f"attribute {self.name}: minimum {self.minimum} is not below maximum {self.maximum}")
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError(f"attribute {self.name}: default {self.default} outside {self.minimum}..{self.maximum}")
        return self

    def check(self, value: Any) -> float:
        """Return `value` as a number of this attribute, or raise `UserError` naming the allowed range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(
                f"{self.name}={value!r} is not a number; give one from {self.minimum:g} to {self.maximum:g}."
            )
        if not self.minimum <= value <= self.maximum:
            raise UserError(f"{self.name}={value:g} is outside {self.minimum:g} to {self.maximum:g}.")
        if self.integer and value != int(value):
            raise UserError(f"{self.name}={value:g} is not a whole number from {self.minimum:g} to {self.maximum:g}.")
        return int(value) if self.integer else float(value)


class AttributeSchema(BaseModel):
    """An ordered set of attributes, and the ones whose sum is the score that builders rank candidates by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    attributes: tuple[Attribute, ...]
    score: tuple[str, ...]
    """Attributes summed into the quality score (paper: helpfulness + correctness + coherence)."""

    @field_validator("attributes")
    @classmethod
    def _names_are_unique(cls, attributes: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
        names = [attribute.name.lower() for attribute in attributes]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"attribute names must be present and distinct, got {names}")
        return attributes

    @model_validator(mode="after")
    def _score_is_known(self) -> AttributeSchema:
        unknown = [name for name in self.score if name not in self.names]
        if unknown:
            raise ValueError(f"score names unknown attributes {unknown}; known: {list(self.names)}")
        tasteful = [name for name in self.score if self[name].higher_is_better is None]
        if tasteful:
            raise ValueError(f"score uses {tasteful}, which have no better direction (higher_is_better: null)")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Attribute names in schema order, the order of the steering string."""
        return tuple(attribute.name for attribute in self.attributes)

    def __getitem__(self, name: str) -> Attribute:
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        raise UserError(f"unknown attribute {name!r}; schema {self.name!r} has {', '.join(self.names)}.")

    def check(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Validate a complete assignment and return it in schema order; raise `UserError` otherwise."""
        for name in values:
            self[name]
        missing = [name for name in self.names if name not in values]
        if missing:
            raise UserError(
                f"no value for {', '.join(missing)}; schema {self.name!r} needs all of {', '.join(self.names)}."
            )
        return {name: self[name].check(values[name]) for name in self.names}

    def complete(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Fill the attributes that `values` leaves out with their defaults, then `check`."""
        for name in values:
            self[name]
        return self.check(
            {attribute.name: values.get(attribute.name, attribute.default) for attribute in self.attributes}
        )

    def steering_string(self, values: Mapping[str, Any]) -> str:
        """Return ``Helpfulness:4,Correctness:4,...`` (no spaces, schema order), as in the paper's training data."""
        checked = self.check(values)
        return ",".join(f"{attribute.label}:{checked[attribute.name]:g}" for attribute in self.attributes)

    def steering_line(self, values: Mapping[str, Any]) -> str:
        """Return the whole attribute turn that is appended to the user turn after a newline."""
        return STEERING_LINE.format(attributes=self.steering_string(values))

    def total(self, values: Mapping[str, Any]) -> float:
        """Quality score: sum over `score`, an attribute where lower is better counting from its other end."""
        total = 0.0
        for name in self.score:
            attribute = self[name]
            value = attribute.check(values[name])
            total += value if attribute.higher_is_better else attribute.maximum + attribute.minimum - value
        return total

    @property
    def perfect_total(self) -> float:
        """The highest score an answer can have (12 for the paper's three attributes)."""
        return sum(self[name].maximum for name in self.score)

    @property
    def fingerprint(self) -> str:
        """Hash of everything in the schema, rubric texts included: annotations of two schemas never mix."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]
