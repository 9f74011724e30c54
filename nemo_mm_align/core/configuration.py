"""The one way from a composed configuration to typed, frozen settings: what is validated is what is used.

A section is a pydantic model on `StrictModel`, or a dataclass that carries `STRICT`. Values are read as JSON is: a list may
become a tuple and a text a path, but a quoted ``"false"`` is a text and no switch, ``2.0`` no whole number, and numbers are
finite.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic_core import SchemaError

from nemo_mm_align.core.configuration_faults import describe_fault, is_secret, shown
from nemo_mm_align.core.configuration_types import choices, hints_of, item_of, sections_in, tags_of, unwrapped, words_of
from nemo_mm_align.core.errors import UserError, check_keys

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
"""For a dataclass: ``__pydantic_config__ = STRICT``."""

Kind = TypeVar("Kind")

_MOST = 2**31 - 1
Count = Annotated[int, Field(ge=1, le=_MOST)]
Natural = Annotated[int, Field(ge=0, le=_MOST)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e30)]
NotNegative = Annotated[float, Field(ge=0, le=1e30)]
Name = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
Seconds = Annotated[float, Field(ge=0, le=1e8)]
"""Bounds that any setting of its kind has: beyond them lie overflows, not wishes."""


class StrictModel(BaseModel):
    """Base of settings that are pydantic models."""

    model_config = STRICT


def read(kind: type[Kind], values: Any, where: str = "") -> Kind:
    """Return the settings that a section of a configuration is.

    Args:
        kind: what it becomes.
        values: plain values (``OmegaConf.to_container``).
        where: dotted name of the section; "" for a whole configuration.

    Raises:
        UserError: the first fault with its full key: an unknown word with the nearest known one, a missing value, a value
            of another type or out of range.
    """
    check_names(kind, values, where)
    text = json.dumps(_plain(values, where), default=str)
    try:
        settings: Kind = _adapter(kind).validate_json(text)  # type: ignore[arg-type]  # a class is hashable
    except ValidationError as error:
        raise UserError(describe_fault(error, values, where)) from None
    return settings


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_together(kinds: Iterable[Any], values: Any, where: str) -> list[Any]:
    """Return the objects that one flat section is made of; each takes the keys that it knows. Raises as `read` does."""
    kinds = list(kinds)
    known = {key: hint for kind in kinds for key, hint in keys_of(kind).items()}
    _check_section(known, values, where)
    return [read_known(kind, values, where) for kind in kinds]


def read_known(kind: type[Kind], values: Any, where: str) -> Kind:
    """Return what `kind` knows of a section whose other keys are somebody else's to judge."""
    check_section(values, where)
    return read(kind, {key: values[key] for key in keys_of(kind) if key in values}, where)


def keys_of(kind: Any) -> dict[str, Any]:
    """Return the keys that a section may have which becomes a `kind`, with their types."""
    return {name: unwrapped(hint)[0] for name, hint in hints_of(kind).items()}


def section_in(hint: Any, value: Any = None) -> Any:
    """Return the class of a section in a type; None for the type of a plain value.

    Args:
        value: of the section; where a type names several classes, it chooses by a field that tells them apart.
    """
    kinds = sections_in(hint)
    if len(kinds) < 2 or not isinstance(value, Mapping):
        return kinds[0] if kinds else None
    words = [item for item in value.values() if isinstance(item, str)]
    return next((kind for kind in kinds if not set(tags_of(kind)).isdisjoint(words)), None)


def check_names(kind: Any, values: Any, where: str = "") -> None:
    """Raise `UserError` for the first key that the settings do not know, sections inside included."""
    settings = getattr(kind, "model_config", STRICT)
    _check_section(keys_of(kind), values, where, closed=settings.get("extra") == "forbid")


def check_section(values: Any, where: str) -> None:
    """Raise `UserError` where something else stands in the place of a section."""
    if not isinstance(values, Mapping):
        found = "..." if is_secret(where) else shown(values)
        raise UserError(
            f"{where or 'the configuration'}={found}: is a section; give its keys one by one, "
            f"{where}{'.' if where else ''}KEY=VALUE."
        )


def _check_section(known: Mapping[str, Any], values: Any, where: str, closed: bool = True) -> None:
    check_section(values, where)
    if closed:
        check_keys(map(str, values), known, where)
    for key, value in values.items():
        if value == "" and Path in choices(known.get(key)):
            instead = "; null is none" if NoneType in choices(known[key]) else ""
            raise UserError(f"{where}{'.' if where else ''}{key}='': must be a path{instead}.")
        for number, item in enumerate(value if isinstance(value, list | tuple) and key in known else ()):
            if isinstance(item, Mapping) and (kind := section_in(item_of(known[key]), item)) is not None:
                check_names(kind, item, f"{where}{'.' if where else ''}{key}.{number}")
        inner = section_in(known[key], value) if key in known else None
        words = words_of(known.get(key))
        if inner is not None and words and isinstance(value, str) and value not in words:
            raise UserError(
                f"{where}{'.' if where else ''}{key}={shown(value)}: must be {' or '.join(words)}, or a section."
            )
        stands_alone = (value is None and NoneType in choices(known.get(key))) or value in words
        if inner is not None and not stands_alone:
            check_names(inner, value, f"{where}.{key}" if where else str(key))


def check_arguments(
    function: Callable[..., Any], values: Mapping[str, Any], where: str, taken: Collection[str] = ()
) -> None:
    """Check values against the typed arguments of a class or function that they are to be given to.

    Args:
        taken: arguments that are given from elsewhere.

    Raises:
        UserError: an unknown argument, one that is missing, or a value of another type.
    """
    parameters = inspect.signature(function).parameters
    known = {
        name: item
        for name, item in parameters.items()
        if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY) and name not in taken
    }
    if not any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
        check_keys(map(str, values), known, where)
    hints = _hints_of_call(function)
    for name, item in known.items():
        if name not in values and item.default is item.empty:
            raise UserError(f"{where}.{name} has no value. Give it on the command line: {where}.{name}=...")
        if name in values and not (values[name] is None and item.default is None):
            _check_argument(hints.get(name, Any), values[name], where, name)


def _hints_of_call(function: Callable[..., Any]) -> dict[str, Any]:
    """Types of the arguments: of ``__init__``, inherited or not, or of the fields where a class has none in Python."""
    made_by = getattr(function, "__init__", None) if isinstance(function, type) else function
    try:
        return get_type_hints(made_by if inspect.isfunction(made_by) else function, include_extras=True)
    except (NameError, TypeError):  # a type that exists for type checkers alone; a class without arguments
        return {}


def _check_argument(hint: Any, value: Any, where: str, name: str) -> None:
    settings: ConfigDict = {**STRICT, "arbitrary_types_allowed": True}
    try:
        kind = create_model("Argument", __config__=settings, **{name: (hint, ...)})  # type: ignore[call-overload]
    except (PydanticUserError, SchemaError):  # a type of somebody's own that pydantic knows nothing of
        return
    read(kind, {name: value}, where)


def _plain(values: Any, where: str) -> Any:
    """The values as JSON can hold them; a text of bytes that are no characters raises `UserError`."""
    for name, text in _texts(values, where):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{name}={shown(text)}: holds bytes that are not UTF-8. Rename it.") from None
    return values


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        if len({str(key) for key in value}) < len(value):
            raise UserError(f"{where}: has a key twice, once as a number and once as a text. Remove one.")
        for key, inner in value.items():
            yield where, str(key)
            yield from _texts(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{where}[{number}]")
