"""Losses, gradient norms and learning rates of the four recipes are those of 1a72c78, in one process, at TP 2 and PP 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed import REPOSITORY, free_port, run_distributed
from tests.golden.runs import BOUNDS, GOLDEN, LAYOUTS, RECIPES, losses, overrides, worst
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.parallel, pytest.mark.slow]

WORKER = REPOSITORY / "tests/golden/train_worker.py"


def train(ranks: int, folder: Path, runs: list[list[str]]) -> None:
    """Run `scripts/train.py` with each of these words, one after the other."""
    path = folder / "runs.json"
    path.write_text(json.dumps([[free_port(), words] for words in runs]), encoding="utf-8")
    if ranks > 1:
        run_distributed(WORKER, ranks, path)
        return
    command = [sys.executable, str(WORKER), str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_are_those_of_1a72c78(layout: str, tmp_path: Path) -> None:
    words = [overrides(recipe, layout, GOLDEN / "model", GOLDEN / "data", tmp_path) for recipe in RECIPES]
    train(LAYOUTS[layout][0], tmp_path, words)
    known = json.loads((GOLDEN / "losses.json").read_text(encoding="utf-8"))
    for recipe in RECIPES:
        run = f"{recipe}_{layout}"
        found = worst({run: losses(tmp_path / run)}, {run: known[run]})
        assert all(found[name] <= BOUNDS[name] for name in BOUNDS), f"{run}: {found} off {BOUNDS}"


def test_a_beta_of_one_hundredth_more_is_noticed(tmp_path: Path) -> None:
    """The bounds are narrow enough: the smallest change that anyone would make lies far outside."""
    words = overrides("dpo", "one", GOLDEN / "model", GOLDEN / "data", tmp_path)
    train(1, tmp_path, [[*words, "recipe.beta=0.101"]])
    known = json.loads((GOLDEN / "losses.json").read_text(encoding="utf-8"))["dpo_one"]
    found = worst({"dpo_one": losses(tmp_path / "dpo_one")}, {"dpo_one": known})
    assert found["loss"] > 10 * BOUNDS["loss"] and found["gradient_norm"] > 10 * BOUNDS["gradient_norm"], found
