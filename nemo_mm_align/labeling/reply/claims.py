"""What a reply says, collected piece by piece, and the one check that decides whether it is a judgement."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from nemo_mm_align.schema.attribute import spelling
from nemo_mm_align.schema.attributes import AttributeSchema


class UnparsableError(Exception):
    """The reply is not what was asked for."""


@dataclass
class Claims:
    """Values that a reply gives, by candidate (1, 2, ...) and attribute; None stands for one that cannot be read."""

    values: dict[int, dict[str, set[float | None]]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, candidate: int, attribute: str, value: float | None) -> None:
        """Note one value; the same one given twice is no contradiction."""
        self.values[candidate].setdefault(attribute, set()).add(value)

    def settle(self, schema: AttributeSchema, count: int) -> list[dict[str, float]]:
        """Return the ratings of candidates 1 to `count`.

        Raises:
            UnparsableError: a candidate or value is missing, unreadable, contradicted, or of a candidate that is not
                there.
            UserError: a value is out of its attribute's range.
        """
        unknown = sorted(number for number in self.values if not 1 <= number <= count)
        if unknown:
            raise UnparsableError(f"candidate {unknown[0]} is none of 1 to {count}")
        missing = [number for number in range(1, count + 1) if number not in self.values]
        if missing:
            raise UnparsableError(f"no rating of candidate {', '.join(map(str, missing))} of {count}")
        found = [{name: self._only_value(number, name) for name in schema.names} for number in range(1, count + 1)]
        return [schema.check(values) for values in found]

    def _only_value(self, number: int, name: str) -> float:
        values = self.values[number].get(name, set())
        if not values:
            raise UnparsableError(f"candidate {number}: no value for {name}")
        if None in values:
            raise UnparsableError(f"candidate {number}: {name} is not a plain number")
        if len(values) > 1:
            given = ", ".join(f"{value:g}" for value in sorted(value for value in values if value is not None))
            raise UnparsableError(f"candidate {number}: several values for {name} ({given})")
        (value,) = values
        assert value is not None
        return value


def attribute_spellings(schema: AttributeSchema) -> dict[str, str]:
    """Return from `spelling` to attribute name; two attributes that are spelled alike keep their own names only."""
    names: dict[str, list[str]] = defaultdict(list)
    for name in schema.names:
        names[spelling(name)].append(name)
    return {key: given[0] for key, given in names.items() if len(given) == 1}


def candidate_number(label: str) -> int:
    """Return 1 for ``1`` and ``A``, 2 for ``2`` and ``B``, and so on."""
    return int(label) if label.isdigit() else ord(label.upper()) - ord("A") + 1
