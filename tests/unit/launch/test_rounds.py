"""A launch in rounds: the jobs that it is made of, what they take from one another, and how they end before their time."""

from __future__ import annotations

import functools
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.launch.checks import find_faults
from nemo_mm_align.launch.costs import costs_of
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.launch import read_settings, render
from nemo_mm_align.launch.round_checks import check_wiring
from nemo_mm_align.launch.settings import LaunchSettings
from nemo_mm_align.workflow.round_files import RoundFiles
from tests.unit.launch.cases import DATA, INTERACTIVE, KUBERNETES, LOOP, PLACES, TRAINING, launch_config, rounds_of
from tests.unit.launch.test_golden import inner_script
from tests.unit.launch.test_pod_behaviour import Pod
from tests.unit.launch.test_script_behaviour import Script

RUN = Path("/shared/results/first")
FULL = 'train.overrides=["recipe=dpo","model=llava15_13b","model.lora=null","seed=7"]'
COSTS = ("costs.expected_prompts=20001", "costs.expected_questions=100")

Launch = tuple[LaunchSettings, dict[str, Job]]


@functools.cache
def launched() -> Launch:
    """Adapters, shares of the prompts, both rules."""
    return rounds_of("rounds.count=2", "rounds.least_gain=0.1", "train.template.system='Be kind.'", *COSTS)


@pytest.fixture
def adapters() -> Launch:
    return launched()


@pytest.fixture(scope="module")
def first() -> Launch:
    """The whole model, trained anew from the first one on the data of all rounds."""
    return rounds_of(
        "rounds.count=2", "rounds.train_from=first", "rounds.prompts=same", "rounds.stop_on=[]", FULL, *COSTS
    )


def value(job: Job, *keys: str) -> list[object]:
    return [job.composed.get(key) for key in keys]


def test_the_jobs_of_rounds(adapters: Launch) -> None:
    before, after = ["share_prompts"], ["generate_base", "generate", "evaluate"]
    one = [f"round_1_{name}" for name in ("sample", "label", "build", "train", "review", "merge")]
    two = [f"round_2_{name}" for name in ("sample", "label", "review_samples", "build", "train", "review")]
    assert list(adapters[1]) == [*before, *one, *two, *after]
    assert [job.title for job in adapters[1].values()][5:8] == [
        "review of round 1",
        "merge of round 1",
        "sample of round 2",
    ]
    missing = [fault for fault in find_faults(list(adapters[1].values()), adapters[0]) if "is not there" in fault]
    assert [fault for fault in missing if str(RUN) in fault] == [], "each file is made by a job before"


def test_a_round_works_in_its_folder_with_the_model_before(adapters: Launch) -> None:
    _, jobs = adapters
    for number in (1, 2):
        folder = RUN / f"round_{number}"
        files = [f"{folder}/{name}.jsonl" for name in ("prompts", "candidates", "annotations", "training")]
        sample, label, build, train = (jobs[f"round_{number}_{name}"] for name in ("sample", "label", "build", "train"))
        assert (
            value(sample, "prompts", "out") == files[:2] and value(label, "prompts", "candidates", "out") == files[:3]
        )
        assert value(build, "annotations", "out", "method.name") == [*files[2:], "best_worst"]
        assert value(train, "data.train", "exp_manager.exp_dir") == [files[3], str(folder)]
        assert train.done_file == folder / "dpo/DONE"
    merged = f"{RUN}/round_1/merged"
    assert value(jobs["round_1_merge"], "source", "out", "adapters") == [f"{RUN}/round_1/dpo", merged, "merged"]
    assert value(jobs["round_1_sample"], "checkpoint", "seed") == ["/shared/llava", 1234]
    assert value(jobs["round_2_sample"], "checkpoint", "seed", "num_samples") == [merged, 1235, 10]
    start = "model.hf_path", "model.checkpoint", "seed"
    assert value(jobs["round_1_train"], *start) == ["/shared/llava", None, 1234]
    assert value(jobs["round_2_train"], *start) == [merged, None, 1235], "which is DPO's reference too"
    assert value(jobs["share_prompts"], "share.prompts", "share.count") == ["/shared/prompts.jsonl", 2]


def test_the_stages_after_the_rounds_take_the_last_good_model(adapters: Launch) -> None:
    _, jobs = adapters
    assert value(jobs["generate"], "checkpoint", "out") == [f"{RUN}/model", f"{RUN}/answers.jsonl"]
    template = "template.name", "template.system"
    assert value(jobs["generate_base"], "checkpoint", *template) == ["/shared/llava", "vicuna_v1", "Be kind."]
    answers = {"base": f"{RUN}/answers_base.jsonl", "dpo": f"{RUN}/answers.jsonl"}
    assert jobs["evaluate"].composed.get("answers") == answers and not jobs["evaluate"].rounds.stops


def test_jobs_look_where_the_rounds_have_ended(adapters: Launch) -> None:
    _, jobs = adapters
    training, samples = RUN / "round_1/STOPPED_BY_TRAINING", RUN / "round_2/STOPPED_BY_SAMPLES"
    assert jobs["round_1_merge"].rounds.stops == jobs["round_2_sample"].rounds.stops == (training,)
    assert jobs["round_2_review_samples"].rounds.stops == (training,)
    assert jobs["round_2_train"].rounds.stops == jobs["round_2_review"].rounds.stops == (training, samples)
    assert not jobs["round_1_train"].rounds.stops
    review = jobs["round_2_review"].composed.plain("review")
    assert review == {
        "number": 2, "sampled_from": f"{RUN}/round_1/merged", "annotations": f"{RUN}/round_2/annotations.jsonl",
        "training_set": f"{RUN}/round_2/training.jsonl", "run": f"{RUN}/round_2/dpo",
        "stop_on": ["diverged", "entropy", "answers"], "least_gain": 0.1,
    }  # fmt: skip
    assert jobs["round_2_review_samples"].composed.get("review.run") is None


def test_training_from_the_first_model_takes_the_data_of_all_rounds(first: Launch) -> None:
    _, jobs = first
    run, gathered = f"{RUN}/round_1/dpo", f"{RUN}/round_2/training_of_all_rounds.jsonl"
    assert "round_1_merge" not in jobs and "share_prompts" not in jobs
    assert value(jobs["round_2_sample"], "checkpoint", "prompts") == [run, "/shared/prompts.jsonl"]
    assert value(jobs["round_2_train"], "model.hf_path", "data.train", "seed") == ["/shared/llava", gathered, 8]
    sets = [f"{RUN}/round_{number}/training.jsonl" for number in (1, 2)]
    assert value(jobs["round_2_gather"], "gather.sets", "gather.out") == [sets, gathered]
    assert all(not job.rounds.stops and job.rounds.diverged_file is None for job in jobs.values())


def test_a_whole_model_is_started_from_as_it_is() -> None:
    tasks = "evaluate.tasks={pope: {data: /shared/pope}}", "generate.prompts=null"
    files = "rounds.prompts=[/shared/a.jsonl,/shared/b.jsonl]"
    _, jobs = rounds_of("rounds.count=2", files, FULL, "run.time_limit=60", *tasks)
    run = f"{RUN}/round_1/dpo"
    assert value(jobs["round_2_sample"], "checkpoint", "prompts") == [run, "/shared/b.jsonl"]
    assert value(jobs["round_2_train"], "model.hf_path", "model.checkpoint", "seed") == [None, run, 8]
    assert jobs["round_1_review"].time_limit == 60
    assert value(jobs["generate_dpo"], "checkpoint") == [f"{RUN}/model"]
    assert value(jobs["generate_base"], "checkpoint") == ["/shared/llava"] and "generate" not in jobs


def test_costs_count_all_rounds(adapters: Launch, first: Launch) -> None:
    costs = {one.stage: one for one in costs_of(adapters[0], list(adapters[1].values()))}
    assert (
        costs["round_1_label"].judge.calls == costs["round_2_label"].judge.calls == 10001
    )  # half of 20,001, rounded up
    assert costs["round_2_sample"].what == "10,001 prompts, 10 answers each"
    assert costs["round_2_train"].seconds == costs["round_1_train"].seconds and costs["round_2_train"].seconds
    assert costs["round_1_merge"].gpu_hours == 0
    whole = {one.stage: one for one in costs_of(first[0], list(first[1].values()))}
    assert whole["round_2_label"].judge.calls == 20001
    assert [whole[f"round_{number}_train"].what.split()[0] for number in (1, 2)] == ["16,948", "33,896"]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["stages=[sample,label,build]"], "make no round, train is missing"),
        (["stages=[build,train]"], "make no round, sample, label or annotate is missing"),
        (["stages=[generate,sample,label,build,train]"], "generate and evaluate come after train"),
        (['train.overrides=["recipe=attribute_model","model=llava15_13b"]'], "rates answers and gives none"),
        (
            ['train.overrides=["recipe=sft","model=llava15_13b"]', "build.method=sft"],
            "learns from the judge's own answers",
        ),
        (["rounds.prompts=[/shared/a.jsonl]"], "names 1 files for rounds.count=2"),
        (["rounds.train_from=first", "build.format=trl"], "leave build.format at records"),
        (["label.candidates=/shared/c.jsonl"], "label.candidates=/shared/c.jsonl is not what sample makes in round 1"),
    ],
)
def test_what_makes_no_rounds_is_said_before(overrides: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text.replace(".", r"\.")):
        rounds_of("rounds.count=2", *overrides)


@pytest.mark.parametrize(
    ("stage", "key", "text"),
    [
        ("label", "prompts", "label.prompts must be those that were sampled"),
        ("train", "data.train", "train.data.train=/x is not what build makes"),
        ("label", "out", "build.annotations=.* is not what label makes"),
        ("sample", "out", "sample.out is /x in every round"),
    ],
)
def test_a_round_reads_and_writes_its_own(adapters: Launch, stage: str, key: str, text: str) -> None:
    names = ("sample", "train") if (stage, key) == ("sample", "out") else ("sample", "label", "build", "train")
    jobs = {name: adapters[1][f"round_2_{name}"] for name in names}
    check_wiring(jobs, RoundFiles(RUN, 2), gathers=False)
    changed = deepcopy(jobs[stage].composed.config)
    OmegaConf.update(changed, key, "/x")
    jobs[stage] = replace(jobs[stage], composed=replace(jobs[stage].composed, config=changed))
    with pytest.raises(UserError, match=text):
        check_wiring(jobs, RoundFiles(RUN, 2), gathers=False)


def test_fewer_prompts_than_rounds(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("{}\n\n")
    with pytest.raises(UserError, match="has 1 prompts for rounds.count=2"):
        rounds_of("rounds.count=2", f"sample.prompts={tmp_path}/p.jsonl")


def test_unknown_reasons_and_rounds_are_refused() -> None:
    for word, text in (("rounds.stop_on=[bad]", "rounds.stop_on"), ("rounds.count=0", "rounds.count=0")):
        with pytest.raises(UserError, match=text):
            read_settings(launch_config(*TRAINING, *DATA, *PLACES, word, stages=LOOP))


@pytest.mark.parametrize("cluster", [(), INTERACTIVE, KUBERNETES], ids=["slurm", "interactive", "kubernetes"])
def test_scripts_are_sound(adapters: Launch, cluster: tuple[str, ...], tmp_path: Path) -> None:
    settings = read_settings(launch_config(*TRAINING, *DATA, *PLACES, *cluster, stages=LOOP))
    files = []
    for name in ("share_prompts", "round_1_merge", "round_2_train", "round_2_review"):
        text = render(adapters[1][name], settings).text
        if cluster == KUBERNETES:
            manifest = yaml.safe_load(text)
            text = f"#!/bin/bash\n{inner_script(manifest)}"
            assert manifest["kind"] == ("PyTorchJob" if name.endswith("train") else "Job")
        assert ("doctor.py" in text) == name.endswith("train"), "checks come before stages"
        files.append(tmp_path / f"{name}.sh")
        files[-1].write_text(text)
    done = subprocess.run([Path(sys.executable).parent / "shellcheck", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:3000]


class Rounds:
    """Renders a job of the rounds in place of a stage, without checks before it."""

    def rendered(self, stage: str, results: str, code: str, python: str, *overrides: str) -> str:
        words = (*TRAINING, *DATA, *PLACES, "preflight=false", python, *overrides)
        text = render(launched()[1][stage], read_settings(launch_config(*words, stages=LOOP))).text
        for told, place in zip(PLACES, (results, code), strict=True):
            text = text.replace(told.partition("=")[2], place.partition("=")[2])
        return text


class SlurmRounds(Rounds, Script):
    """As Slurm runs it."""


class PodRounds(Rounds, Pod):
    """As a pod runs it."""


class LocalRounds(Rounds, Script):
    """As this machine runs it."""

    def __init__(self, folder: Path, stage: str) -> None:
        super().__init__(folder, stage, *INTERACTIVE)


@pytest.mark.parametrize("kind", [SlurmRounds, PodRounds, LocalRounds])
def test_rounds_end_well_before_their_time(kind: type[Script], tmp_path: Path) -> None:
    script = kind(tmp_path, "round_2_train")
    run = script.results / "round_2/dpo"
    (run / "metrics").mkdir(parents=True)
    (script.results / "round_1").mkdir()
    note = 'echo "no number" > "${NEMO_MM_ALIGN_FAULT_FILE:-/dev/null}"; exit 2'
    assert script.run(f"touch {run}/metrics/diverged.json; {note}") == 0, "a review will say so"
    assert script.run(note) == 2 and not (run / "metrics/diverged.json").exists(), "of an earlier start"
    (script.results / "round_1/STOPPED_BY_TRAINING").write_text("round 1 is the last\n")
    assert script.run("exit 3") == 0 and len(script.lines("started")) == 2
