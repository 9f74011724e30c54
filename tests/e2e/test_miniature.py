"""The whole loop at smoke size as a user starts it, base made afresh, killed in the middle and started again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.distributed import REPOSITORY
from tests.waiting import PATIENCE_S, wait_until

SMOKE = [
    "base=train",
    "methods=[steerlm]",
    "steering_prompts=2",
    "world.train={easyvqa:12,charts:12,text:4}",
    "world.dev={easyvqa:2,charts:2,text:2}",
    "world.heldout={easyvqa:6,charts:6,text:4}",
    "world.base={easyvqa_images:20,charts:20,text:40,captions:40,visual:60}",
    "sampling.max_new_tokens=12",
    'build.steerlm=["method.drop_truncated=false"]',
    *(f'base_stages.{name}=["model.global_batch_size=8","model.micro_batch_size=4","trainer.max_steps=3"]'
      for name in ("text", "captions", "visual")),
    'train.steerlm=["model.global_batch_size=16","model.micro_batch_size=16","trainer.max_steps=2"]',
]  # fmt: skip


def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(REPOSITORY / "scripts/miniature.py"), f"out={out}", *SMOKE]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=REPOSITORY)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    parent = psutil.Process(process.pid)
    for child in [*parent.children(recursive=True), parent]:
        child.kill()
    process.wait()


@pytest.mark.slow
def test_the_loop_runs_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    process = start(out, log)
    begun = out / "done/base_captions.begun"
    wait_until(begun.is_file, lambda: None if process.poll() is None else log.read_text()[-4000:])
    kill_all(process)
    process = start(out, log)
    assert process.wait(timeout=2 * PATIENCE_S) == 0, log.read_text()[-6000:]
    text = log.read_text()
    assert "base_text: done before" in text
    results = json.loads((out / "results.json").read_text())
    assert set(results["methods"]) == {"base", "steerlm"}
    for method in results["methods"].values():
        assert method["correctness"] is not None and method["text_score"] is not None
        assert set(method["judged"]) == {"helpfulness", "correctness", "coherence", "complexity", "verbosity"}
    assert set(results["steering"]) == {"helpfulness", "correctness", "coherence", "complexity", "verbosity"}
    assert results["layouts"]["steerlm"]["tensor"] == 2 and results["layouts"]["sample"]["tensor"] == 2
    assert results["layouts"]["base_visual"]["data"] == 2
    assert results["methods"]["steerlm"]["training"]["optimizer_steps"] == 2
    assert results["text_ability"]["before_visual_tuning"] is not None
    report = (out / "report.html").read_text()
    assert "SteerLM" in report and "data:image/" in report
    assert str(out / "report.html") in text.replace("\n", "")
    assert (out / "base/model/model.safetensors").stat().st_size < 5e6
