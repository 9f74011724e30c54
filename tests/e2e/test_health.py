"""A training through scripts/train.py says how it went; killed and resumed, it keeps what it measured at its first start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import REPOSITORY
from tests.golden.runs import GOLDEN, small_run
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.e2e

STEPS, ATTEMPTS = 24, 5


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    words = small_run("run", GOLDEN / "model", GOLDEN / "data/preference.jsonl", out, STEPS)
    words += [
        "recipe=dpo",
        "recipe.epochs=99",
        "model.lora.rank=4",
        "checkpoint.every_n_steps=4",
        "seed=3",
        "health.image_probe=32",
        *more,
    ]
    command = [sys.executable, str(REPOSITORY / "scripts/train.py"), *words]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output[-4000:]
    return output


def health(out: Path) -> dict[str, Any]:
    return json.loads((out / "run/metrics/health.json").read_text(encoding="utf-8"))


def killed_on_the_way(tmp_path: Path) -> Path:
    """A run with a checkpoint and no end; one that is over before it can be killed is repeated."""
    for number in range(ATTEMPTS):
        out = tmp_path / str(number)
        process = start(out)
        first = out / "run/checkpoints/step_00000004/metadata.json"
        wait_until(lambda process=process, first=first: first.is_file() or process.poll() is not None)
        process.kill()
        process.communicate()
        if health(out)["images"]["end"] is None:
            return out
    pytest.fail(f"{ATTEMPTS} runs were over before they could be killed")


def test_a_killed_and_resumed_training_keeps_its_start_and_ends_with_a_verdict(tmp_path: Path) -> None:
    out = killed_on_the_way(tmp_path)
    begun = health(out)
    start_effects = begun["images"]["start"]["effects"]
    assert set(start_effects) == {"loss", "log_prob_chosen", "log_prob_rejected"} and begun["verdict"] is None
    assert begun["images"]["start"]["step"] == 0 and begun["images"]["samples"] >= 4

    output = finish(start(out))
    ended = health(out)
    assert "image sensitivity at the start" not in output and "image sensitivity at the end, loss: " in output
    assert ended["images"]["start"] == begun["images"]["start"] and ended["images"]["key"] == begun["images"]["key"]
    assert ended["images"]["end"]["step"] == STEPS == ended["verdict"]["steps"]
    assert f"health after {STEPS} steps: " in output
    rules = {finding["rule"] for finding in ended["verdict"]["findings"]}
    assert {"loss", "accuracy", "displacement", "distance", "entropy", "gradient", "images"} <= rules
    assert all(finding["text"] in output for finding in ended["verdict"]["findings"])

    (out / "run/metrics/health.json").unlink()  # as if it had been killed just before it could write
    assert f"health after {STEPS} steps: " in finish(start(out)) and health(out)["verdict"] == {
        **ended["verdict"],
        "findings": [finding for finding in ended["verdict"]["findings"] if finding["rule"] != "images"],
    }
