"""Checks keys and types of conf/train.yaml against the objects that its sections become.

Hydra refuses unknown words on the command line alone; those of a YAML file it takes over: a key of a user's own file that
no object knows is a mistake, not a wish.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from nemo_mm_align.errors import UserError, check_keys, foreign_key
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.nested import differing
from nemo_mm_align.recipes.methods import build_method
from nemo_mm_align.recipes.sections import RECIPES, ModelSettings, Recipe, TopLevel

Section = TypeVar("Section")

_OFTEN_UNSAID = ("num_query_groups", "head_dim")
"""What one configuration says and another leaves to follow from other sizes."""

_SET_HERE = ("accelerator", "strategy", "logger", "enable_checkpointing", "use_distributed_sampler", "max_epochs")
"""Arguments of Lightning's Trainer that are not the user's to give."""


def keys_of(kind: type) -> dict[str, Any]:
    """Return the keys that a section may have which becomes an object of `kind`, with their types."""
    hints = get_type_hints(kind)
    return {item.name: hints[item.name] for item in fields(kind)}


MODEL_KEYS = {**dict.fromkeys(keys_of(LlavaConfig), Any), **keys_of(ParallelConfig), **keys_of(ModelSettings)}
"""Of section ``model``; the sizes have a check of their own."""


def differing_sizes(chosen: LlavaConfig, found: LlavaConfig) -> list[str]:
    """Return in which sizes the model that was chosen by name and the one in the folder differ, in words."""
    first, second = ({"language": asdict(sizes.language), "vision": asdict(sizes.vision)} for sizes in (chosen, found))
    return [
        f"{name} {value} (there {other})"
        for name, value, other in differing(first, second)
        if name.rpartition(".")[2] not in _OFTEN_UNSAID
    ]


def check_settings(values: Mapping[str, Any]) -> None:
    """Check keys and types of a composed conf/train.yaml, given as plain dictionaries and lists.

    Raises:
        UserError: an unknown key, with the nearest known one; a key that other recipes know; a value of another type.
    """
    _check(values, keys_of(TopLevel), "")
    _check(_mapping(values["model"], "model"), MODEL_KEYS, "model")
    recipe = _mapping(values["recipe"], "recipe")
    _check(recipe, keys_of(_recipe_kind(recipe)), "recipe")


def read_section(kind: type[Section], values: Mapping[str, Any], where: str) -> Section:
    """Return the object that a checked section becomes, with those inside it; keys that `kind` does not know are passed over.

    Raises:
        UserError: a value is missing or out of range.
    """
    arguments = {}
    for item in fields(kind):  # type: ignore[arg-type]  # a dataclass
        if item.name in values:
            inner, value = _section_in(keys_of(kind)[item.name]), values[item.name]
            arguments[item.name] = (
                read_section(inner, value, f"{where}.{item.name}") if inner and value is not None else value
            )
        elif item.default is MISSING and item.default_factory is MISSING:
            raise UserError(f"{where}.{item.name} has no value. Give it on the command line: {where}.{item.name}=...")
    return kind(**arguments)


def read_recipe(values: Mapping[str, Any]) -> Recipe:
    """Return the checked section ``recipe`` as the object that its name asks for."""
    return read_section(_recipe_kind(values), values, "recipe")


def check_trainer(options: Mapping[str, Any], trainer: type) -> None:
    """Check the section ``trainer`` against the arguments of Lightning's `Trainer`.

    Raises:
        UserError: an unknown key, or one that is set here.
    """
    check_keys(options, set(inspect.signature(trainer).parameters) - {"self"}, "trainer")
    taken = [key for key in _SET_HERE if key in options]
    if taken:
        raise UserError(
            f"trainer.{taken[0]} cannot be given: layout, loggers and checkpoints are set by model, exp_manager and checkpoint, "
            "the length of the run by recipe.epochs and trainer.max_steps. Remove it."
        )


def _recipe_kind(values: Mapping[str, Any]) -> type[Recipe]:
    """Return the class of a recipe's settings; a key that is known to others alone is refused with their names."""
    name = str(values.get("name"))
    if name not in RECIPES:
        build_method(name)  # says which there are
    kind = RECIPES[name]
    for key in values.keys() - keys_of(kind):
        owners = [other for other, its_kind in RECIPES.items() if key in keys_of(its_kind)]
        if owners:
            raise UserError(foreign_key(f"recipe.{key}", "recipe", owners))
    return kind


def _section_in(hint: Any) -> type | None:
    """Return the class of a section, optional or not; None for the type of a plain value."""
    return next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None)


def _check(values: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    check_keys(values, known, where)
    for key, value in values.items():
        hint, name = known[key], f"{where}.{key}" if where else key
        section = _section_in(hint)
        if section is None:
            _check_value(value, hint, name)
        elif value is not None or NoneType not in get_args(hint):
            _check(_mapping(value, name), keys_of(section), name)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{name}={value!r}: is a section; give its keys one by one, {name}.KEY=VALUE.")
    return value


def _check_value(value: Any, kind: Any, name: str) -> None:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{name}={value!r}: {error.errors()[0]['msg']}.") from None
