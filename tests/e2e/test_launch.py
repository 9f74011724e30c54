"""The whole loop as a chain on this machine, from one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.miniature.world import SplitSize, WorldSettings, build_world
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SMALL = (
    "sample.num_samples=2", "sample.max_new_tokens=12", "generate.max_new_tokens=12", "label.judge=oracle",
    "train.trainer.devices=1", "train.trainer.max_steps=2", "train.trainer.enable_progress_bar=false",
    "train.model.tensor_model_parallel_size=1", "train.model.sequence_parallel=false",
    "train.model.micro_batch_size=4", "train.model.global_batch_size=4",
)  # fmt: skip


def test_one_command_goes_from_prompts_to_the_report(tmp_path: Path, repository: Path) -> None:
    size, none = SplitSize(easyvqa=0, charts=6, text=2), SplitSize(easyvqa=0, charts=1, text=1)
    build_world(tmp_path / "world", WorldSettings(train=size, dev=none, heldout=size), with_base=False)
    command = [
        sys.executable, str(repository / "scripts/launch.py"), "stages=[sample,label,build,train,evaluate]",
        "cluster=interactive", "experiment=sft_mini_1x2", "run.name=loop", f"base_results_dir={tmp_path}",
        f"python={sys.executable}", f"sample.prompts={tmp_path}/world/train.jsonl", "preflight=false",
        f"generate.prompts={tmp_path}/world/heldout.jsonl", *SMALL,
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "loop"
    assert json.loads((run / "sft_mini_1x2/DONE").read_text()) == {"steps": 2}
    assert (run / "evaluation/report.html").is_file()
    assert set(json.loads((run / "evaluation/results.json").read_text())["methods"]) == {"sft"}
    log = (run / "launcher.log").read_text().splitlines()
    assert [line.split()[2].rstrip(":") for line in log[::2]] == [
        "sample",
        "label",
        "build",
        "train",
        "generate",
        "evaluate",
    ]
    assert all(line.endswith("exit code 0") for line in log[1::2]) and len(log) == 12
    assert not (tmp_path / "outputs").exists()


def test_a_failing_stage_ends_the_chain(tmp_path: Path, repository: Path) -> None:
    for name in ("prompts.jsonl", "candidates.jsonl"):
        (tmp_path / name).write_text("no record\n")
    command = [
        sys.executable, str(repository / "scripts/launch.py"), "stages=[label,build]", "cluster=interactive",
        "run.name=loop", f"base_results_dir={tmp_path}", f"python={sys.executable}", "label.judge=oracle", "preflight=false",
        f"label.prompts={tmp_path}/prompts.jsonl", f"label.candidates={tmp_path}/candidates.jsonl", "build.method=sft",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2 and "stage label ended with exit code 2" in done.stderr
    log = (tmp_path / "loop/launcher.log").read_text().splitlines()
    assert len(log) == 2 and log[1].endswith("stage label: exit code 2")
