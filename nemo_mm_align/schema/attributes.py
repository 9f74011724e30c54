"""The attribute schema: the one source for judge prompt, training template, checkpoint metadata and report.

A schema names the attributes a judge scores and a SteerLM model is conditioned on, their range, direction and rubric,
and the line that asks for them. The default is HelpSteer's five attributes, integers 0 to 4 (Wang et al., arXiv
2311.09528, appendix A.1). A schema of another kind is a YAML file, in ``conf/attribute_schema/`` or in a folder of the
user's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.hashing import hash_json
from nemo_mm_align.schema.attribute import FRACTION_BINS, Attribute, spelling

PLACEHOLDER = "{attributes}"
REQUEST = "Please answer the question such that your response is in the following attributes"
STEERING_LINE = f"{REQUEST} in 5-point Likert scale:\n{PLACEHOLDER}"
"""The paper's attribute turn (Li, Lin and Pei, arXiv 2402.10884), appended to the user turn after a newline."""

ASKING = ("steering", "steered")
"""Fields of a schema that say how a model is asked; no judge goes by them."""


class AttributeSchema(BaseModel):
    """An ordered set of attributes, and the ones whose sum is the score that builders rank candidates by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    attributes: tuple[Attribute, ...]
    score: tuple[str, ...]
    """Attributes summed into the quality score (paper: helpfulness + correctness + coherence)."""
    steering: str | None = None
    """Line that asks for attributes, ``{attributes}`` at its end; None: the paper's, or one that fits the ranges."""
    steered: tuple[str, ...] | None = None
    """Attributes that are asked for, the others being judged alone; None: all of them, as in the paper."""

    @field_validator("attributes")
    @classmethod
    def _names_are_unique(cls, attributes: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
        names = [attribute.name for attribute in attributes]
        if not names or len(set(map(spelling, names))) != len(names):
            raise ValueError(
                "attribute names must be present and distinct, where case, hyphens and underscores make no difference; "
                f"got {names}"
            )
        return attributes

    @field_validator("steering")
    @classmethod
    def _line_can_be_found_again(cls, line: str | None) -> str | None:
        if line is None:
            return None
        head, found, rest = line.rstrip().partition(PLACEHOLDER)
        if not found or rest or len(head.strip()) < len("Attributes:"):
            raise ValueError(f"steering must be a sentence that ends with {PLACEHOLDER}, got {line!r}")
        if "<image>" in line:
            raise ValueError("steering must not contain <image>")
        return head.lstrip("\n") + PLACEHOLDER

    @model_validator(mode="after")
    def _score_is_known(self) -> AttributeSchema:
        doubled = sorted({name for name in self.score if self.score.count(name) > 1})
        if doubled:
            raise ValueError(f"score names {doubled} twice; name each attribute once")
        unknown = [name for name in self.score if name not in self.names]
        if unknown:
            raise ValueError(f"score names unknown attributes {unknown}; known: {list(self.names)}")
        tasteful = [name for name in self.score if self[name].higher_is_better is None]
        if tasteful:
            raise ValueError(f"score uses {tasteful}, which have no better direction (higher_is_better: null)")
        return self

    @model_validator(mode="after")
    def _steered_are_known(self) -> AttributeSchema:
        named = self.steered
        if named is not None and (not named or len(set(named)) < len(named) or set(named) - set(self.names)):
            raise ValueError(
                f"steered must name attributes of {list(self.names)}, each once, or be left out to ask for all; got "
                f"{list(named)}"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_empty_steering(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not set of how a model is asked: schemas are hashed, and older ones had no such fields."""
        values: dict[str, Any] = serialize(self)
        return {key: value for key, value in values.items() if key not in ASKING or value is not None}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Attribute names in schema order, the order of the steering string."""
        return tuple(attribute.name for attribute in self.attributes)

    def __getitem__(self, name: str) -> Attribute:
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        raise UserError(f"unknown attribute {name!r}; schema {self.name!r} has {', '.join(self.names)}.")

    @property
    def asked(self) -> tuple[Attribute, ...]:
        """The attributes that a model is asked for, in schema order, the order of the steering string."""
        return tuple(item for item in self.attributes if self.steered is None or item.name in self.steered)

    def moved(self, asked: Mapping[str, float]) -> list[str]:
        """Return the attributes that are asked for at another value than their default, in schema order."""
        return [name for name, value in self.check_some(asked).items() if value != self[name].default]

    def check_some(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Validate values of any of the attributes and return them in schema order; raise `UserError` otherwise."""
        for name in values:
            self[name]
        return {name: self[name].check(values[name]) for name in self.names if name in values}

    def check(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Validate a value for each attribute, as a judge gives them; return them in schema order.

        Raises:
            UserError: an unknown or missing attribute, or a value that it cannot have.
        """
        return self._check_all(values, self.attributes)

    def check_asked(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Return the values of the attributes that a model is asked for, in schema order; others are validated and left out.

        Raises:
            UserError: an unknown attribute, one that is asked for and missing, or a value that it cannot have.
        """
        return self._check_all(values, self.asked)

    def _check_all(self, values: Mapping[str, Any], needed: Sequence[Attribute]) -> dict[str, float]:
        checked = self.check_some(values)
        missing = [attribute.name for attribute in needed if attribute.name not in checked]
        if missing:
            names = ", ".join(attribute.name for attribute in needed)
            what = "needs all of" if len(needed) == len(self.attributes) else "asks for (`steered`)"
            raise UserError(f"no value for {', '.join(missing)}; schema {self.name!r} {what} {names}.")
        return {attribute.name: checked[attribute.name] for attribute in needed}

    def refuse_unasked(self, names: Iterable[str]) -> None:
        """Raise `UserError` where one of `names` is unknown, or is an attribute that models are not asked for."""
        for name in names:
            if self[name] not in self.asked:
                asked = ", ".join(attribute.name for attribute in self.asked)
                raise UserError(
                    f"{name} is judged but not asked for: schema {self.name!r} asks for {asked} (`steered`)."
                )

    def complete(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Return a value for each attribute that a model is asked for: the one in `values`, or its default.

        Raises:
            UserError: an attribute that is unknown or not asked for, or a value that it cannot have.
        """
        self.refuse_unasked(values)
        return self.check_asked({item.name: values.get(item.name, item.default) for item in self.asked})

    def steering_string(self, values: Mapping[str, Any]) -> str:
        """Return ``Helpfulness:4,Correctness:4,...`` (no spaces, schema order), as in the paper's training data.

        Args:
            values: at least of all attributes that are asked for; no others stand in the string.
        """
        checked = self.check_asked(values)
        return ",".join(f"{attribute.label}:{checked[attribute.name]:g}" for attribute in self.asked)

    def label_string(self, values: Mapping[str, Any]) -> str:
        """Return ``helpfulness:4,correctness:4,...``, the names as they are, as in NeMo-Aligner's SteerLM data."""
        return ",".join(f"{name}:{value:g}" for name, value in self.check_asked(values).items())

    @property
    def steering_head(self) -> str:
        """What stands before the values in the attribute turn.

        `steering`'s own words; else the paper's where all that are asked for are whole numbers from 0 to 4, and the same
        sentence with the right scale where they are not.
        """
        if self.steering is not None:
            return self.steering.removesuffix(PLACEHOLDER)
        ranges = {(attribute.minimum, attribute.maximum) for attribute in self.asked}
        if ranges == {(0, 4)} and all(attribute.integer for attribute in self.asked):
            return STEERING_LINE.removesuffix(PLACEHOLDER)
        if len(ranges) == 1:
            low, high = next(iter(ranges))
            return f"{REQUEST} on a scale from {low:g} to {high:g}:\n"
        scales = ", ".join(f"{item.label} {item.minimum:g} to {item.maximum:g}" for item in self.asked)
        return f"{REQUEST} on these scales ({scales}):\n"

    def steering_line(self, values: Mapping[str, Any]) -> str:
        """Return the whole attribute turn that is appended to the user turn after a newline."""
        return self.steering_head + self.steering_string(values)

    @property
    def line_with_ranges(self) -> str:
        """The attribute turn with ``minimum..maximum`` in place of values: two schemas of one such line ask alike."""
        ranges = [f"{item.label}:{item.minimum:g}..{item.maximum:g}" for item in self.asked]
        return self.steering_head + ",".join(ranges)

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
    def worst_total(self) -> float:
        """The lowest score an answer can have."""
        return sum(self[name].minimum for name in self.score)

    @property
    def good_total(self) -> float:
        """The score from which an answer counts as a good one: five sixths of the way from the worst to the highest."""
        return self.worst_total + 5 / 6 * (self.perfect_total - self.worst_total)

    @property
    def score_bins(self) -> int | None:
        """Bins of a histogram over the scores; None: one for each whole number."""
        return None if all(self[name].integer for name in self.score) else FRACTION_BINS

    def judged(self) -> dict[str, Any]:
        """Return what a judge goes by, JSON-ready: everything but how a model is asked."""
        return self.model_dump(mode="json", exclude=set(ASKING))

    @property
    def fingerprint(self) -> str:
        """Hash of all that a judge goes by, rubric texts included: annotations of two schemas never mix."""
        return hash_json(self.judged())
