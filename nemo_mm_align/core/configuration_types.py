"""What the type of a setting says: its members, the notes on it, the section that it stands for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel


@functools.cache
def hints_of(kind: Any) -> Mapping[str, Any]:
    """Return the keys that a section may have which becomes a `kind`, with their types, bounds included."""
    if issubclass(kind, BaseModel):
        return MappingProxyType(
            {
                item.alias or name: Annotated[item.annotation, *item.metadata] if item.metadata else item.annotation
                for name, item in kind.model_fields.items()
            }
        )
    hints = get_type_hints(kind, include_extras=True)
    return MappingProxyType({item.name: hints[item.name] for item in fields(kind) if item.init})


def unwrapped(hint: Any) -> tuple[Any, list[Any]]:
    """Return a type without its notes, and these."""
    notes: list[Any] = []
    while get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        notes += more
    return hint, notes


def choices(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, each with the notes of its own; any other type alone, without notes."""
    hint, _ = unwrapped(hint)
    if get_origin(hint) not in (Union, UnionType):
        return (hint,)
    return tuple(inner for choice in get_args(hint) for inner in _kept(choice))


def _kept(choice: Any) -> tuple[Any, ...]:
    inner, notes = unwrapped(choice)
    return (choice,) if notes and get_origin(inner) not in (Union, UnionType) else choices(inner)


def is_section(kind: Any) -> bool:
    """Whether a type is a class of settings."""
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel))


def sections_in(hint: Any) -> list[Any]:
    """Return the classes of settings among the members of a type."""
    return [kind for kind in choices(hint) if is_section(kind)]


def words_of(hint: Any) -> list[Any]:
    """Return the fixed values that a setting may have in place of one of its other kinds."""
    return [word for kind in choices(hint) if get_origin(kind) is Literal for word in get_args(kind)]


def item_of(hint: Any) -> Any:
    """Return the type of a list's items; None where the type is that of no list."""
    for kind in choices(hint):
        inner = unwrapped(kind)[0]
        if get_origin(inner) in (list, tuple) and get_args(inner):
            return get_args(inner)[0]
    return None


def tags_of(kind: Any) -> list[Any]:
    """Return the values that a section's fields of fixed choice can have: what tells it from others, where it is told."""
    bases = (unwrapped(hint)[0] for hint in hints_of(kind).values())
    return [word for base in bases if get_origin(base) is Literal for word in get_args(base)]
