"""A small study as a user starts it: killed in the middle, ended by its time, gone on with, reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.distributed import REPOSITORY
from tests.waiting import PATIENCE_S, wait_until

SMALL = ["size=smoke", "only=[base,dpo]", "seeds.main=1", "seeds.losses=1", "seeds.ablations=1", "parallel=1"]


def start(out: Path, log: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(REPOSITORY / "scripts/study.py"), f"out={out}", *SMALL, *words]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=REPOSITORY)


def ended(out: Path, log: Path, *words: str) -> str:
    process = start(out, log, *words)
    assert process.wait(timeout=2 * PATIENCE_S) == 0, log.read_text()[-6000:]
    return log.read_text()


@pytest.mark.slow
def test_a_study_goes_on_after_a_kill_and_reports(tmp_path: Path) -> None:
    out, log = tmp_path / "study", tmp_path / "log"
    process = start(out, log)
    sampled = out / "done/seed11_base_sample.json"
    wait_until(sampled.is_file, lambda: None if process.poll() is None else log.read_text()[-4000:])
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs(below, timeout=PATIENCE_S)
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    first = sampled.read_text()
    text = ended(out, log, "minutes=0.0001")
    assert "2 cells, 1 of them to be run, as 3 jobs" in text and "the time of this slice is over" in text
    text = ended(out, log)
    assert "[3/3]" in text and str(out / "study.md") in text
    assert sampled.read_text() == first, "what was done before the kill is not done again"
    assert not (out / "cells/dpo/seed_11").exists() and (out / "seed_11/annotations.jsonl").is_file()
    results = json.loads((out / "results.json").read_text())
    trained = results["groups"]["main"]["variants"]["dpo"]
    assert trained["seeds"] == [11] and trained["figures"]["training_seconds"]["mean"] > 1
    cell = json.loads((out / "figures/main/dpo/seed_11.json").read_text())
    assert cell["training"]["steps"] == 2 and cell["measured"][""]["score"] == trained["figures"]["score"]["mean"]
    base = json.loads((out / "figures/main/base/seed_11.json").read_text())
    assert base["measured"][""] == cell["base"] and base["offer"]["error"] > 0
    (gain,) = [one for one in results["groups"]["main"]["differences"] if one["figure"] == "score"]
    assert (gain["variant"], gain["against"]) == ("dpo", "base")
    assert gain["mean"] == pytest.approx(cell["measured"][""]["score"] - cell["base"]["score"])
    report = (out / "study.md").read_text()
    assert report.startswith("# Study: 2 of ") and "## Beside the paper" in report and "+12.4 %" in report
    assert (out / "plots/front.svg").is_file()
