"""What recipes on preference pairs have in common; no recipe itself."""

from __future__ import annotations

from typing import Any

from nemo_mm_align.datasets.kinds import PAIRS
from nemo_mm_align.objectives.preference import PairObjective
from nemo_mm_align.recipes.spec import RecipeSpec


def pair_recipe(name: str, label: str, objective: type[PairObjective], colour: str, **more: Any) -> RecipeSpec:
    """Return a recipe on pairs as `build` makes them by its method ``preference``.

    Args:
        more: what else `RecipeSpec` takes, or takes another value for.
    """
    usual = {"samples": PAIRS, "build_method": "preference", "data": "preference pairs"}
    return RecipeSpec(name=name, label=label, objective=objective, colour=colour, **{**usual, **more})
