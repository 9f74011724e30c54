"""Make ``losses.json`` and ``run``, a DPO training that was killed after its third step, with `old`'s scripts.

    python -m tests.golden.make.training CHECKOUT OUT

OUT holds ``model`` and ``data`` (see `inputs`). ``OUT/work`` is left for a look.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from tests.golden.make import old
from tests.golden.runs import (
    LAYOUTS,
    NUMBERS,
    RECIPES,
    RESUMED,
    SAVED_STEP,
    UNPROBED,
    losses,
    overrides,
    resumed_overrides,
)

LEFT_OUT = ("cmd-args.log", "lightning_logs.txt", "nemo_error_log.txt", "nemo_log_*", "run.json", "run_*", "DONE")
"""Files that say what machine and day it was, and nothing that a later start reads."""


def known_then(words: list[str]) -> list[str]:
    """Without the key that the commit of the pinned files lacks."""
    return [word for word in words if word != UNPROBED]


def make_losses(checkout: Path, out: Path) -> dict[str, dict[str, list[float]]]:
    """Train every recipe in every layout; return the numbers of each."""
    shutil.rmtree(out / "work", ignore_errors=True)  # a run that is complete is not trained again
    found = {}
    for recipe in RECIPES:
        for layout, (ranks, _) in LAYOUTS.items():
            words = overrides(recipe, layout, "model", "data", "work")
            old.run(checkout, "train.py", known_then(words), ranks, out)
            found[f"{recipe}_{layout}"] = losses(out / f"work/{recipe}_{layout}")
    return found


def make_run(checkout: Path, out: Path) -> None:
    """Train to the end with a checkpoint on the way, and take away what lies behind it, as a kill would have left it."""
    ranks = LAYOUTS[RESUMED[1]][0]
    words = resumed_overrides("model", "data", "work")
    old.run(checkout, "train.py", known_then(words), ranks, out)
    run = shutil.copytree(out / "work/resumed", out / "run", ignore=shutil.ignore_patterns(*LEFT_OUT))
    for folder in (run / "checkpoints").iterdir():
        if folder.name != f"step_{SAVED_STEP:08d}":
            shutil.rmtree(folder)
    path = run / "metrics/training.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[: SAVED_STEP + 1]), encoding="utf-8")  # one step was lost with the kill


def main(checkout: Path, out: Path) -> None:
    """Write both."""
    made = make_losses(checkout, out)
    lines = [
        f' "{run}": {{\n' + ",\n".join(f'  "{name}": {json.dumps(made[run][name])}' for name in NUMBERS) + "\n }"
        for run in made
    ]
    (out / "losses.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    make_run(checkout, out)


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:3]))
