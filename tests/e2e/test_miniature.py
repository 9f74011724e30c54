"""The whole loop at smoke size as a user starts it, base made afresh, killed in the middle and started again."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.distributed import REPOSITORY
from tests.waiting import PATIENCE_S, wait_until

SMOKE = [
    "base=train",
    "methods=[steerlm]",
    "attribute_model=false",
    "tensor_parallel=[steerlm,answers]",
    "steering_prompts=2",
    "world.train={easyvqa:12,charts:12,text:4}",
    "world.dev={easyvqa:2,charts:2,text:2}",
    "world.heldout={easyvqa:6,charts:6,text:4}",
    "world.base={easyvqa_images:20,charts:20,text:40,captions:40,visual:60}",
    "sight.steps=3",
    "sampling.max_new_tokens=12",
    'build.steerlm=["method.drop_truncated=false","method.least_score=0"]',
    *(f'base_stages.{name}=["model.global_batch_size=8","model.micro_batch_size=4","trainer.max_steps=3"]'
      for name in ("text", "captions", "visual")),
    'train.steerlm=["model.global_batch_size=16","model.micro_batch_size=16","trainer.max_steps=2"]',
]  # fmt: skip


def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(REPOSITORY / "scripts/miniature.py"), f"out={out}", *SMOKE]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=REPOSITORY)


def kill_all(process: subprocess.Popen[bytes], out: Path) -> None:
    """Kill whatever works on this folder: where commands are forks they are no children of `process`."""
    process.kill()
    process.wait()
    while found := [one for one in psutil.process_iter() if works_on(one, out)]:
        for one in found:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(found, timeout=PATIENCE_S)


def works_on(process: psutil.Process, out: Path) -> bool:
    try:
        return any(str(out) in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.mark.slow
def test_the_loop_runs_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    process = start(out, log)
    begun = out / "done/base_captions.begun"
    wait_until(begun.is_file, lambda: None if process.poll() is None else log.read_text()[-4000:])
    kill_all(process, out)
    process = start(out, log)
    assert process.wait(timeout=2 * PATIENCE_S) == 0, log.read_text()[-6000:]
    text = log.read_text()
    assert "base_text: done before" in text
    results = json.loads((out / "results.json").read_text())
    assert set(results["methods"]) == {"base", "steerlm", "steerlm_unasked", "steerlm_brief"}
    assert results["methods"]["steerlm_brief"]["asked"] == {"complexity": 0, "verbosity": 1}
    for method in results["methods"].values():
        assert method["measurements"]["correctness"]["value"] is not None and method["text_score"] is not None
        assert {name for name in method["measurements"] if name.startswith("judged.")} == {
            f"judged.{name}" for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
        }
    assert set(results["steering"]) == {"complexity", "verbosity"}
    assert results["layouts"]["steerlm"]["tensor"] == 2 and results["layouts"]["sample"]["tensor"] == 2
    assert results["layouts"]["base_visual"]["data"] == 2
    assert results["methods"]["steerlm"]["training"]["optimizer_steps"] == 2
    assert results["text_ability"]["before_visual_tuning"] is not None
    report = (out / "report.html").read_text()
    assert "SteerLM" in report and "data:image/" in report
    assert str(out / "report.html") in text.replace("\n", "")
    assert (out / "base/model/model.safetensors").stat().st_size < 5e6


SECOND_ROUND = [
    "processes=1",  # two of each stage are the other miniatures' matter, and half of the time is spent in starting them
    "tensor_model_parallel_size=1",
    "methods=[steerlm,attribute_dpo]",
    "brief=null",
    "steering_prompts=2",
    "world.train={easyvqa:20,charts:20,text:12}",
    "world.dev={easyvqa:2,charts:2,text:2}",
    "world.heldout={easyvqa:6,charts:6,text:4}",
    "sampling.max_new_tokens=32",
    *(f'train.{name}=["model.global_batch_size=16","model.micro_batch_size=8","trainer.max_steps=2"]'
      for name in ("steerlm", "attribute_dpo", "attribute_model")),
]  # fmt: skip


@pytest.mark.slow
def test_a_recipe_that_starts_from_another_one_learns_of_its_answers(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, str(REPOSITORY / "scripts/miniature.py"), f"out={out}", *SECOND_ROUND]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    asked = [json.loads(line) for line in (out / "seed_0/annotations_steerlm.jsonl").read_text().splitlines()]
    assert all(line["asked"].keys() == {"complexity", "verbosity"} for line in asked)
    assert len({tuple(line["asked"].values()) for line in asked}) > 5, "drawn for each prompt"
    results = json.loads((out / "results.json").read_text())
    steered = ("steerlm", "attribute_dpo")
    assert set(results["methods"]) == {"base", *steered, *(f"{name}_unasked" for name in steered)}, "brief=null"
    assert set(results["steering_by_method"]) == set(steered)
    assert set(results["steering"]) == {"complexity", "verbosity"}
    assert results["methods"]["attribute_dpo"]["training"]["optimizer_steps"] == 2
    (told,) = results["attribute_model"]
    judged = [name for name in results["methods"]["base"]["measurements"] if name.startswith("judged.")]
    assert {*told} == {*(name.removeprefix("judged.") for name in judged), "weighted sum"}
    assert {*told["verbosity"]} == {"model", "images shuffled", "probe"} and (
        out / "seed_0/attribute_model.html"
    ).is_file()
    report = (out / "report.html").read_text()
    assert "A model that rates answers (seed_0/attribute_model.html)" in report
    assert "The same question at several settings" in report and "Attribute DPO (nothing asked)" in report
