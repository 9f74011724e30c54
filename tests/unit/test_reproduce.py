"""docs/reproduce.md: every command composes, and its costs are what a dry run says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from nemo_mm_align.cli.command import with_own_groups
from nemo_mm_align.core.repository import CONF, ROOT
from nemo_mm_align.inference.settings import register_open_attributes
from nemo_mm_align.launch.costs import Costs, StageCost
from nemo_mm_align.launch.launch import read_settings
from nemo_mm_align.launch.settings import register_open_nodes
from tests.unit.launch.cases import jobs_of, launch_config

TEXT = (ROOT / "docs/reproduce.md").read_text(encoding="utf-8")
TASKS = ("mt_bench", "alpaca_eval", "mm_vet", "llava_bench", "pope", "mmbench")
"""The benchmarks of the paper's table."""


def commands() -> list[str]:
    """The commands of the indented blocks, continued lines joined."""
    lines = [line[4:] for line in TEXT.splitlines() if line.startswith("    ")]
    return [one for one in re.sub(r" *\\\n *", " ", "\n".join(lines)).splitlines() if "scripts/" in one]


def script_and_words(command: str) -> tuple[str, list[str]]:
    words = shlex.split(command)
    at = next(place for place, word in enumerate(words) if word.startswith("scripts/"))
    return Path(words[at]).stem, words[at + 1 :]


def test_the_commands_go_from_the_downloads_to_the_table() -> None:
    scripts = [script_and_words(command)[0] for command in commands()]
    assert scripts == [
        "launch",
        "prepare",
        "prepare",
        "launch",
        "prepare",
        *["launch"] * 4,
        "convert",
        "generate",
        "evaluate",
    ]


@pytest.mark.parametrize("command", commands())
def test_every_command_composes(command: str) -> None:
    script, words = script_and_words(command)
    register_open_nodes()
    register_open_attributes()
    words = [f"run.{word}" if word.startswith("experiment=") else word for word in words]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(script, with_own_groups(words, CONF, script))
    if script == "launch":
        _, jobs = jobs_of(config)
        assert next(iter(jobs)) in ("sample", "build")


def table() -> dict[str, list[float]]:
    rows = re.findall(r"^\| (paper/\w+) \| ([\d., |]+) \|$", TEXT, re.MULTILINE)
    return {name: [float(cell.replace(",", "")) for cell in cells.split("|")] for name, cells in rows}


def reckoned(name: str) -> dict[str, StageCost]:
    """The costs of the chain with the paper's tasks, their data not here."""
    model = ["train.model.hf_path=/shared/llava", "sample.prompts=/nowhere.jsonl", "generate.prompts=/nowhere.jsonl"]
    places = ["base_results_dir=/shared/results", "launcher_scripts_path=/shared/code"]
    stages = ["sample", "label", "build", "train", "evaluate"]
    config = launch_config("chain=paper", f"run.experiment={name}", *model, *places, stages=stages)
    _, jobs = jobs_of(config)
    tasks = {task: {"data": "/nowhere"} for task in TASKS}
    for stage in ("generate", "evaluate"):
        OmegaConf.update(jobs[stage].composed.config, "tasks", tasks, force_add=True)
    OmegaConf.update(jobs["generate"].composed.config, "variants", "auto", force_add=True)
    return {one.stage: one for one in Costs(read_settings(config), list(jobs.values())).stages()}


@pytest.mark.parametrize("name", ["paper/sft", "paper/rejection", "paper/steerlm", "paper/dpo", "paper/dpo_7b"])
def test_its_costs_are_what_a_dry_run_says(name: str) -> None:
    sample, train, _, labelled, evaluated = table()[name]
    found = reckoned(name)
    assert found["sample"].gpu_hours == pytest.approx(sample, abs=0.005)
    assert found["train"].gpu_hours == pytest.approx(train, abs=0.005)
    assert found["label"].judge.calls == labelled == 6000
    # The chain answers with one more model, the start model, whose answers are evaluated as well.
    models = 3 if name == "paper/steerlm" else 2
    assert found["evaluate"].judge.calls * models == evaluated


@pytest.mark.parametrize("name", ["paper/sft", "paper/steerlm", "paper/dpo_7b"])
def test_answers_of_the_start_model_and_of_the_trained_one(name: str) -> None:
    trained = reckoned(name)["generate"].gpu_hours
    like_the_start = reckoned("paper/sft" if "7b" not in name else name)["generate"].gpu_hours
    assert trained is not None and like_the_start is not None
    assert trained + like_the_start == pytest.approx(table()[name][2], abs=0.01)


def test_what_is_estimated_is_called_so() -> None:
    assert "**All costs are estimated**" in TEXT and "## What it costs, estimated" in TEXT
