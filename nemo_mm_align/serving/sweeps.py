"""One prompt over several assignments of attributes in one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from nemo_mm_align.core.errors import shorten
from nemo_mm_align.inference.requests import sweep_assignments
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.asked_attributes import check_some
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.protocol import kind_of


def sweep_of(
    schema: AttributeSchema | None, sweep: Any, base: Mapping[str, float] | None, most: int
) -> list[dict[str, float]]:
    """Return the assignments of a sweep, all complete, each once.

    Args:
        sweep: names, of which each moves over its range while the others stay, ``"all"`` for all names; or an object of names
            and values: every combination of these.
        base: what is asked of attributes that stay.
        most: assignments that are allowed.

    Raises:
        ApiError: it cannot be asked so.
    """
    if schema is None:
        raise ApiError(400, "sweep: this model was trained without attributes; leave it out.", "sweep")
    if base is None:
        raise ApiError(400, "sweep: attributes is null, which asks for nothing; leave one of them out.", "sweep")
    if isinstance(sweep, Mapping) and sweep:
        found = _grid(schema, sweep, base, most)
    else:
        found = sweep_assignments(schema, base, _names(schema, sweep))
    _refuse_many(len(found), most)
    return [schema.check_asked(values) for values in found]


def _refuse_many(count: int, most: int) -> None:
    if count > most:
        raise ApiError(400, f"sweep: {count} assignments; at most {most} are answered in one request.", "sweep")


def _names(schema: AttributeSchema, sweep: Any) -> list[str]:
    known = {item.name: item.default for item in schema.asked}
    names = list(known) if sweep == "all" else sweep
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ApiError(400, 'sweep: give names of attributes, or an object as {"NAME": [0, 2, 4]}.', "sweep")
    check_some(schema, {name: known.get(name) for name in names}, "sweep")
    return list(dict.fromkeys(names))


def _grid(
    schema: AttributeSchema, sweep: Mapping[str, Any], base: Mapping[str, float], most: int
) -> list[dict[str, float]]:
    for name, values in sweep.items():
        if not isinstance(values, list) or not values:
            where = f"sweep.{shorten(str(name), 40)}"
            raise ApiError(400, f"{where}: give a list of at least one value, not {kind_of(values)}.", where)
    _refuse_many(prod(map(len, sweep.values())), most)
    columns = [_column(schema, name, values) for name, values in sweep.items()]
    return [{**base, **dict(zip(sweep, values, strict=True))} for values in product(*columns)]


def _column(schema: AttributeSchema, name: str, values: Sequence[Any]) -> list[float]:
    return list(dict.fromkeys(check_some(schema, {name: value}, "sweep")[name] for value in values))
