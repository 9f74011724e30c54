"""The whole loop as a chain on this machine, from one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.miniature.folders import SHIPPED_BASE
from nemo_mm_align.miniature.world import SplitSize, WorldSettings, build_world
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.examples import TrainingExample
from nemo_mm_align.schema.records import Annotation, Prompt, RatedCandidate, Turn, read_records, write_records
from tests.attribute_checkpoints import attribute_checkpoint, helpsteer
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SMALL = (
    "sample.num_samples=2", "sample.max_new_tokens=12", "generate.max_new_tokens=12", "label.judge=oracle",
    "evaluate.task=miniature",
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


def rated_before(folder: Path) -> None:
    """One annotated prompt, whose answers say what a second round asks for."""
    schema = helpsteer()
    names = dict.fromkeys(schema.names, 4)
    answers = [RatedCandidate(text=str(level), ratings=names | {"verbosity": level}) for level in range(5)]
    facts = {"judge": "j", "schema_name": schema.name, "schema_fingerprint": schema.fingerprint}
    turn = Turn(role="user", content="q")
    first = Annotation(prompt=Prompt(id="p", turns=(turn,)), candidates=tuple(answers), **facts)
    write_records(folder / "first.jsonl", [first])


def test_a_second_round_is_one_command(tmp_path: Path, repository: Path) -> None:
    """Candidates asked for what good answers had, rated by an attribute model, learned from."""
    size, none = SplitSize(easyvqa=0, charts=8, text=4), SplitSize(easyvqa=0, charts=1, text=1)
    build_world(tmp_path / "world", WorldSettings(train=size, dev=none, heldout=none), with_base=False)
    rated_before(tmp_path)
    runtime.initialize(ParallelConfig(), seed=1)
    rater = attribute_checkpoint(tmp_path / "rater", SHIPPED_BASE, "last")
    runtime.shutdown()
    command = [
        sys.executable, str(repository / "scripts/launch.py"), "stages=[sample,annotate,build,train]",
        "cluster=interactive", "run.name=second", f"base_results_dir={tmp_path}", f"python={sys.executable}", "preflight=false",
        'train.overrides=["recipe=steerlm","model=mini"]', f"train.model.hf_path={SHIPPED_BASE}", "train.name=steerlm",
        "train.trainer.devices=1", "train.trainer.max_steps=2", "train.precision=fp32", "train.model.global_batch_size=4",
        "train.model.max_length=200", f"sample.prompts={tmp_path}/world/train.jsonl", f"sample.draw_from={tmp_path}/first.jsonl",
        "sample.num_samples=3", "sample.max_new_tokens=12", f"annotate.checkpoint={rater}",
        'build.overrides=["method.least_score=0","method.drop_truncated=false","method.replay_share=0"]',
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    annotations = list(read_records(tmp_path / "second/annotations.jsonl", Annotation))
    assert len(annotations) == 12 and {item.judge for item in annotations} == {"attribute_model"}
    assert len({item.asked["verbosity"] for item in annotations if item.asked}) > 1, "drawn for each prompt"
    examples = list(read_records(tmp_path / "second/training.jsonl", TrainingExample))
    assert {name for item in examples if item.attributes for name in item.attributes} == {"complexity", "verbosity"}
    assert json.loads((tmp_path / "second/steerlm/DONE").read_text()) == {"steps": 2}


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
