"""The whole loop as a chain on this machine, from one command."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.core.run_files import METRICS_FILE, read_metrics
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
    "sample.num_samples=4", "sample.max_new_tokens=24", "generate.max_new_tokens=12", "label.judge=oracle",
    "evaluate.task=miniature", 'build.overrides=["method.margin=1","method.drop_truncated=false"]',
    "train.trainer.devices=1", "train.trainer.max_steps=2", "train.trainer.enable_progress_bar=false",
    "train.model.tensor_model_parallel_size=1", "train.model.sequence_parallel=false", "train.health.image_probe=0",
    "train.model.micro_batch_size=4", "train.model.global_batch_size=4",
    'train.overrides=["model.lora={rank: 4, alpha: 8, dropout: 0.0, targets: [q, v]}"]',
)  # fmt: skip


def stages_of(log: list[str]) -> list[str]:
    """The jobs that a log of the launcher has, each begun and ended well."""
    assert all(line.endswith("exit code 0") for line in log[1::2]) and len(log) % 2 == 0
    return [line.split(" stage ")[1].partition(":")[0] for line in log[::2]]


def test_one_command_goes_from_prompts_to_the_report(tmp_path: Path, repository: Path) -> None:
    """Two rounds of DPO; then the same command with a rule that the first round's training does not meet."""
    size, none = SplitSize(easyvqa=0, charts=12, text=4), SplitSize(easyvqa=0, charts=1, text=1)
    build_world(tmp_path / "world", WorldSettings(train=size, dev=none, heldout=none), with_base=False)
    command = [
        sys.executable, str(repository / "scripts/launch.py"), "chain=online", "rounds.count=2",
        "cluster=interactive", "experiment=dpo_mini_1x2", "run.name=loop", f"base_results_dir={tmp_path}",
        f"python={sys.executable}", f"sample.prompts={tmp_path}/world/train.jsonl", "preflight=false",
        f"generate.prompts={tmp_path}/world/heldout.jsonl", *SMALL,
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "rounds.stop_on=[]"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "loop"
    trained = [run / f"round_{number}/dpo_mini_1x2" for number in (1, 2)]
    for folder in trained:
        assert json.loads((folder / "DONE").read_text()) == {"steps": 2}
        # ln 2: the reference is what this training starts from, the merged model of the round before in the second one.
        assert read_metrics(folder / METRICS_FILE)[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    report = json.loads((run / "rounds.json").read_text())
    assert report["rounds"][1]["sampled_from"] == str(run / "round_1/merged")
    assert [one["samples"]["candidates"] for one in report["rounds"]] == [32, 32]
    assert (run / "rounds.md").read_text() in done.stdout and report["model"] == str(trained[1])
    prompts = [{item.id for item in read_records(run / f"round_{number}/prompts.jsonl", Prompt)} for number in (1, 2)]
    assert not prompts[0] & prompts[1] and len(prompts[0]) == len(prompts[1]) == 8
    assert set(json.loads((run / "evaluation/results.json").read_text())["methods"]) == {"base", "dpo"}
    assert (run / "evaluation/report.html").is_file() and (run / "model").resolve() == trained[1]
    log = (run / "launcher.log").read_text().splitlines()
    rounds = [f"{stage} of round 1" for stage in ("sample", "label", "build", "train", "review", "merge")]
    rounds += [f"{stage} of round 2" for stage in ("sample", "label", "build", "train", "review")]
    assert stages_of(log) == ["share_prompts", *rounds, "generate", "generate", "evaluate"]
    assert not (tmp_path / "outputs").exists()
    metrics = (trained[0] / METRICS_FILE).read_bytes()
    again = [*command, "rounds.stop_on=[steps]", "stages=[sample,label,build,train]"]  # a worry of two steps
    done = subprocess.run(again, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert stages_of((run / "launcher.log").read_text().splitlines()[len(log) :]) == ["share_prompts", *rounds]
    assert (trained[0] / METRICS_FILE).read_bytes() == metrics, "what is done is found done"
    reason = (run / "round_1/STOPPED_BY_TRAINING").read_text()
    assert "rounds.stop_on: steps" in reason and done.stdout.count(f"nothing to do: {reason}") == 6
    assert (run / "model").resolve() == SHIPPED_BASE.resolve()


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
