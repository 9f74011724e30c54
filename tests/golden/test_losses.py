"""Losses, gradient norms and learning rates of the four recipes are those of 1a72c78, in one process, at TP 2 and PP 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden.runs import BOUNDS, GOLDEN, LAYOUTS, RECIPES, losses, overrides, worst
from tests.golden.worker import run_scripts

pytestmark = [pytest.mark.parallel, pytest.mark.slow]


@pytest.mark.parametrize("ranks", sorted({ranks for ranks, _ in LAYOUTS.values()}))
def test_losses_are_those_of_1a72c78(ranks: int, tmp_path: Path) -> None:
    runs = [(recipe, layout) for layout, (needed, _) in LAYOUTS.items() if needed == ranks for recipe in RECIPES]
    calls = [("train.py", overrides(*run, GOLDEN / "model", GOLDEN / "data", tmp_path)) for run in runs]
    run_scripts(tmp_path, calls, ranks)
    known = json.loads((GOLDEN / "losses.json").read_text(encoding="utf-8"))
    for recipe, layout in runs:
        run = f"{recipe}_{layout}"
        found = worst({run: losses(tmp_path / run)}, {run: known[run]})
        assert all(found[name] <= BOUNDS[name] for name in BOUNDS), f"{run}: {found} off {BOUNDS}"


def test_a_beta_of_one_hundredth_more_is_noticed(tmp_path: Path) -> None:
    """The bounds are narrow enough: the smallest change that anyone would make lies far outside."""
    words = overrides("dpo", "one", GOLDEN / "model", GOLDEN / "data", tmp_path)
    run_scripts(tmp_path, [("train.py", [*words, "recipe.beta=0.101"])])
    known = json.loads((GOLDEN / "losses.json").read_text(encoding="utf-8"))["dpo_one"]
    found = worst({"dpo_one": losses(tmp_path / "dpo_one")}, {"dpo_one": known})
    assert found["loss"] > 10 * BOUNDS["loss"] and found["gradient_norm"] > 10 * BOUNDS["gradient_norm"], found
