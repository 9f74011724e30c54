"""What the settings of a command may be, in words, for its ``--help``: derived from the types that check them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    dict: "section of keys of your own",
    Any: "any value",
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_CHOICE = "one of "
_NOTABLE = 1e5
"""Bounds beyond it keep a machine from harm, and nobody from anything."""

Setting = tuple[str, str]
"""Dotted key, and what it takes."""


@dataclass(frozen=True)
class Parts:
    """Marks a flat section that several objects are made of.

    Args:
        kinds: their types.
        others: whose the other keys are, if there may be any.
    """

    kinds: tuple[type, ...]
    others: str = ""


@dataclass(frozen=True)
class Words:
    """Says of a setting what its type does not: how it is written."""

    words: str


@dataclass(frozen=True)
class OneOf:
    """Marks a section whose type follows from its name.

    Args:
        kinds: returns the types by name.
    """

    kinds: Callable[[], Mapping[str, type]]


def settings_of(kind: type, where: str = "") -> Iterator[Setting]:
    """Yield every setting of a section, those of sections inside included.

    Args:
        kind: what the section becomes.
        where: its dotted name.
    """
    for name, hint in _hints(kind).items():
        yield from _setting(f"{where}.{name}" if where else name, hint)


def settings_at(places: Sequence[str]) -> list[Setting]:
    """Return the settings of a command.

    Args:
        places: of its types, ``module:Type``.
    """
    found: dict[str, str] = {}
    for place in places:
        module, _, name = place.partition(":")
        found.update(settings_of(getattr(import_module(module), name)))
    return list(found.items())


def table(settings: Sequence[Setting]) -> str:
    """Return the settings as aligned lines."""
    width = max((len(key) for key, _ in settings), default=0)
    return "".join(f"  {key.ljust(width)}  {words}\n" for key, words in settings)


def _hints(kind: Any) -> dict[str, Any]:
    """Keys and types of a section, bounds included."""
    if issubclass(kind, BaseModel):
        return {
            item.alias or name: Annotated[item.annotation, *item.metadata] if item.metadata else item.annotation
            for name, item in kind.model_fields.items()
        }
    hints = get_type_hints(kind, include_extras=True)
    return {item.name: hints[item.name] for item in fields(kind) if item.init}


def _setting(key: str, hint: Any) -> Iterator[Setting]:
    base, notes = _unwrapped(hint)
    for note in notes:
        if isinstance(note, Parts):
            for kind in note.kinds:
                yield from settings_of(kind, key)
            if note.others:
                yield f"{key}.*", note.others
            return
        if isinstance(note, OneOf):
            yield from _of_each(note.kinds(), key)
            return
        if isinstance(note, Words):
            yield key, note.words
            return
    items = [item for item in get_args(base) if _is_section(item)] if get_origin(base) in (list, tuple) else []
    if items:
        yield from settings_of(items[0], f"{key}[]")
        return
    sections = [kind for kind in _choices(base) if _is_section(kind)]
    if not sections:
        yield key, words_for(hint)
        return
    if NoneType in _choices(base):
        yield key, "a section of the following, or null"
    if len(sections) == 1:
        yield from settings_of(sections[0], key)
    else:
        yield from _of_each({_tag(kind): kind for kind in sections}, key)


def _of_each(kinds: Mapping[str, type], where: str) -> Iterator[Setting]:
    """The settings of sections that exclude each other; where not all have a setting, those that do are named."""
    owners: dict[str, dict[str, list[str]]] = {}
    for name, kind in kinds.items():
        for key, words in settings_of(kind, where):
            owners.setdefault(key, {}).setdefault(words, []).append(name)
    for key, by_words in owners.items():
        parts = [
            words if len(names) == len(kinds) else f"{words} ({', '.join(names)})" for words, names in by_words.items()
        ]
        choices = [words.removeprefix(_CHOICE) for words in by_words if words.startswith(_CHOICE)]
        yield key, f"{_CHOICE}{', '.join(choices)}" if len(choices) == len(parts) > 1 else "; ".join(parts)


def _tag(kind: type) -> str:
    words = (word for hint in _hints(kind).values() if get_origin(hint) is Literal for word in get_args(hint))
    return str(next(words, kind.__name__))


def words_for(hint: Any) -> str:
    """Return what a value of a type is, in words."""
    base, notes = _unwrapped(hint)
    choices = _choices(base)
    if len(choices) > 1:
        parts = [words_for(choice) for choice in choices if choice is not NoneType]
        return " or ".join(dict.fromkeys(parts)) + _bounds(notes) + (", or null" if NoneType in choices else "")
    if get_origin(base) is Literal:
        return f"{_CHOICE}{', '.join(map(_spelt, get_args(base)))}"
    if get_origin(base) in (list, tuple):
        items = [item for item in get_args(base) if item is not Ellipsis]
        return f"list, each {words_for(items[0])}" if items else "list"
    if _is_section(base):
        return "section"
    return _KINDS.get(get_origin(base) or base, "any value") + _bounds(notes)


def _spelt(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bounds(notes: Sequence[Any]) -> str:
    flat = [part for note in notes for part in (note.metadata if isinstance(note, FieldInfo) else [note])]
    found = []
    for name, words in _BOUNDS.items():
        value = next((getattr(part, name) for part in flat if getattr(part, name, None) is not None), None)
        if value is not None and abs(value) <= _NOTABLE:
            found.append(f"{words} {value:g}")
    return f", {' and '.join(found)}" if found else ""


def _unwrapped(hint: Any) -> tuple[Any, list[Any]]:
    """A type without its notes, and these."""
    notes: list[Any] = []
    while get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        notes += more
    return hint, notes


def _choices(hint: Any) -> tuple[Any, ...]:
    hint, _ = _unwrapped(hint)
    if get_origin(hint) not in (Union, UnionType):
        return (hint,)
    return tuple(inner for choice in get_args(hint) for inner in _choices_kept(choice))


def _choices_kept(choice: Any) -> tuple[Any, ...]:
    """Members of a union, with the bounds of each."""
    inner, notes = _unwrapped(choice)
    return (choice,) if notes and get_origin(inner) not in (Union, UnionType) else _choices(inner)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel))
