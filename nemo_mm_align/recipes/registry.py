"""All recipes: every module of this package with a ``RECIPE``, and those that installed packages bring.

A package brings one by an entry point of the group ``nemo_mm_align.recipes`` whose object is its `RecipeSpec`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, get_args

from nemo_mm_align import recipes
from nemo_mm_align.core.configuration import check_section, keys_of, read
from nemo_mm_align.core.errors import UserError, foreign_key
from nemo_mm_align.datasets.build_settings import Method
from nemo_mm_align.objectives.objective import Objective
from nemo_mm_align.recipes.spec import RecipeSpec

GROUP = "nemo_mm_align.recipes"


@functools.cache
def all_recipes() -> Mapping[str, RecipeSpec]:
    """Return every recipe by its name, in the order of tables.

    Raises:
        UserError: two of one name, or a module or entry point whose recipe cannot be loaded or is none.
    """
    found: dict[str, RecipeSpec] = {}
    for origin, spec in [*_own(), *_installed()]:
        _check(origin, spec)
        if spec.name in found:
            raise UserError(f"{origin}: a recipe called {spec.name} is there already; give it another name.")
        found[spec.name] = spec
    return MappingProxyType(dict(sorted(found.items(), key=lambda item: (item[1].order, item[0]))))


def _own() -> list[tuple[str, RecipeSpec]]:
    names = [f"{recipes.__name__}.{module.name}" for module in pkgutil.iter_modules(recipes.__path__)]
    modules = [_load(name, functools.partial(importlib.import_module, name)) for name in names if name != __name__]
    return [(module.__name__, module.RECIPE) for module in modules if hasattr(module, "RECIPE")]


def _load(origin: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # whatever somebody else's code does
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{origin}: its recipe cannot be loaded: {reason}. Mend or remove it.") from error


def _check(origin: str, spec: object) -> None:
    """Raise `UserError` for what is no recipe, or one that cannot be trained by."""
    if not isinstance(spec, RecipeSpec):
        raise UserError(f"{origin}: is a {type(spec).__name__}, not a RecipeSpec. Mend or remove it.")
    if spec.build_method not in get_args(Method):
        raise UserError(f"{origin}: build_method={spec.build_method!r}: choose from {', '.join(get_args(Method))}.")
    if missing := sorted(getattr(spec.objective, "__abstractmethods__", ())):
        raise UserError(f"{origin}: its objective {spec.objective.__name__} lacks {', '.join(missing)}. Write it.")


def _installed() -> list[tuple[str, RecipeSpec]]:
    found = []
    for point in entry_points(group=GROUP):
        origin = f"{point.dist.name if point.dist else 'a package'} ({point.value})"
        found.append((origin, _load(origin, point.load)))
    return found


def find_recipe(name: object) -> RecipeSpec:
    """Return the recipe called `name`; raise `UserError` naming all where there is none."""
    known = all_recipes()
    if not isinstance(name, str) or name not in known:
        raise UserError(
            f"recipe.name={name!r}: choose from {', '.join(known)}. One of your own is looked for in nemo_mm_align/recipes "
            f"(a module with RECIPE = RecipeSpec(name={str(name)!r}, ...)) and behind entry points of the group {GROUP}."
        )
    return known[name]


def objectives() -> dict[str, type[Objective]]:
    """What stands in the section ``recipe``, by its name."""
    return {name: spec.objective for name, spec in all_recipes().items()}


def read_recipe(values: Any) -> Objective:
    """Return the section ``recipe`` as the objective that its name asks for.

    Raises:
        UserError: an unknown name, a key that is known to other recipes alone, or a value that is none.
    """
    check_section(values, "recipe")
    kind = find_recipe(values.get("name")).objective
    for key in values.keys() - keys_of(kind):
        owners = [name for name, other in objectives().items() if key in keys_of(other)]
        if owners:
            raise UserError(foreign_key(f"recipe.{key}", "recipe", owners))
    return read(kind, values, "recipe")


def paper_recipes() -> dict[str, RecipeSpec]:
    """Those of the paper (Li, Lin and Pei, arXiv 2402.10884), for which experiments and tables are shipped."""
    return {name: spec for name, spec in all_recipes().items() if spec.paper_examples is not None}
