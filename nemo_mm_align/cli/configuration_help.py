"""What the settings of a command may be, in words, for its ``--help``: derived from the types that check them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from nemo_mm_align.core.configuration_faults import BOUNDS
from nemo_mm_align.core.configuration_types import choices, hints_of, is_section, sections_in, tags_of, unwrapped

_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    dict: "section of keys of your own",
    Any: "any value",
}
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
    for name, hint in hints_of(kind).items():
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


def _setting(key: str, hint: Any) -> Iterator[Setting]:
    base, notes = unwrapped(hint)
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
    items = [item for item in get_args(base) if is_section(item)] if get_origin(base) in (list, tuple) else []
    if items:
        yield from settings_of(items[0], f"{key}[]")
        return
    sections = sections_in(base)
    if not sections:
        yield key, words_for(hint)
        return
    if NoneType in choices(base):
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
        tags = [words.removeprefix(_CHOICE) for words in by_words if words.startswith(_CHOICE)]
        yield key, f"{_CHOICE}{', '.join(tags)}" if len(tags) == len(parts) > 1 else "; ".join(parts)


def _tag(kind: type) -> str:
    return str(next(iter(tags_of(kind)), kind.__name__))


def words_for(hint: Any) -> str:
    """Return what a value of a type is, in words."""
    base, notes = unwrapped(hint)
    members = choices(base)
    if len(members) > 1:
        parts = [words_for(member) for member in members if member is not NoneType]
        return " or ".join(dict.fromkeys(parts)) + _bounds(notes) + (", or null" if NoneType in members else "")
    if get_origin(base) is Literal:
        return f"{_CHOICE}{', '.join(map(_spelt, get_args(base)))}"
    if get_origin(base) in (list, tuple):
        items = [item for item in get_args(base) if item is not Ellipsis]
        return f"list, each {words_for(items[0])}" if items else "list"
    if is_section(base):
        return "section"
    return _KINDS.get(get_origin(base) or base, "any value") + _bounds(notes)


def _spelt(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bounds(notes: Sequence[Any]) -> str:
    flat = [part for note in notes for part in (note.metadata if isinstance(note, FieldInfo) else [note])]
    found = []
    for name, words in BOUNDS.items():
        value = next((getattr(part, name) for part in flat if getattr(part, name, None) is not None), None)
        if value is not None and abs(value) <= _NOTABLE:
            found.append(f"{words} {value:g}")
    return f", {' and '.join(found)}" if found else ""
