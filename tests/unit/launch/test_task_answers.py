"""An evaluation of tasks at a chain's end: who answers, where to, and what is looked for before anything is submitted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.launch.checks import asks_judge, find_faults
from nemo_mm_align.launch.jobs import Job, make_jobs
from nemo_mm_align.launch.launch import read_settings, render
from nemo_mm_align.launch.settings import LaunchSettings
from nemo_mm_align.launch.task_answers import task_files
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.tiny import tiny_llava
from tests.unit.launch.cases import KUBERNETES, PLACES, TRAINING, launch_config

RUN = "/shared/results/first"
OWN = "_target_: tests.own_task.OwnTask"
TASKS = f"evaluate.tasks={{turns: {{{OWN}, data: /shared/own}}, few: {{{OWN}, count: 1}}}}"
CHAIN = ("sample", "label", "build", "train", "evaluate")


def launched(*words: str, stages: tuple[str, ...] = CHAIN) -> tuple[LaunchSettings, list[Job]]:
    given = ("sample.prompts=/shared/prompts.jsonl", "run.name=first", *words)
    config = launch_config(*TRAINING, *PLACES, *given, stages=stages)
    settings = read_settings(config)
    return settings, make_jobs(settings, config)


def answering(jobs: list[Job]) -> dict[str, Job]:
    return {job.name.removeprefix("first_generate_"): job for job in jobs if job.stage == "generate"}


def test_the_start_model_and_the_trained_one_answer() -> None:
    _, jobs = launched(TASKS)
    names = [job.name.removeprefix("first_") for job in jobs]
    assert names == ["sample", "label", "build", "train", "generate_base", "generate_dpo", "evaluate"]
    models = answering(jobs)
    expected = {"base": "/shared/llava", "dpo": f"{RUN}/dpo"}
    for name, job in models.items():
        assert job.composed.get("checkpoint") == expected[name] and job.composed.get("out") == f"{RUN}/answers/{name}"
        assert (job.nodes, job.processes_per_node, job.tensor_model_parallel_size) == (2, 8, 2)
        assert job.composed.plain("tasks") == jobs[-1].composed.plain("tasks") and job.composed.get("prompts") is None
    assert models["base"].composed.choices["template"] == "vicuna_v1"
    assert jobs[-1].composed.plain("answers") == {name: f"{RUN}/answers/{name}" for name in expected}
    assert jobs[-1].composed.get("prompts") is None and asks_judge(jobs[-1])


def test_named_models_answer_too_and_a_steered_one_twice() -> None:
    _, jobs = launched(
        TASKS, "evaluate.checkpoints={old: /shared/old}", 'train.overrides=["recipe=steerlm","model=llava15_13b"]'
    )
    assert list(answering(jobs)) == ["base", "steerlm", "old"]
    assert list(jobs[-1].composed.plain("answers")) == ["base", "steerlm", "steerlm_unasked", "old"]
    assert jobs[-1].composed.get("checkpoints") is None, "they answer in jobs of their own"


def test_a_start_model_that_can_be_asked_makes_both_steerable(tmp_path: Path, helpsteer: AttributeSchema) -> None:
    path = tiny_llava(tmp_path / "steered") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attribute_schema": helpsteer.model_dump(mode="json")}))
    _, jobs = launched(TASKS, f"train.model.hf_path={tmp_path}/steered")
    assert list(jobs[-1].composed.plain("answers")) == ["base", "base_unasked", "dpo", "dpo_unasked"]


def test_an_evaluation_alone_asks_whom_it_names() -> None:
    _, jobs = launched(TASKS, "evaluate.checkpoints={old: /shared/old}", stages=("evaluate",))
    assert list(answering(jobs)) == ["base", "old"], "the trained one is not there"
    _, jobs = launched(
        "evaluate.tasks=[attributes]",
        "evaluate.answers={a: /shared/a}",
        "generate.prompts=/x.jsonl",
        stages=("evaluate",),
    )
    assert [job.stage for job in jobs] == ["evaluate"] and asks_judge(jobs[0])


def test_files_of_tasks_and_the_key_of_the_judge_are_looked_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    settings, jobs = launched(TASKS)
    faults = "\n".join(find_faults(jobs, settings))
    assert (
        "stage evaluate: tasks.turns.data=/shared/own is not there" in faults and faults.count("tasks.turns.data") == 2
    )
    assert "stage evaluate: judge=gemini needs a key" in faults and "answers=" not in faults
    pods, jobs = launched(TASKS, *KUBERNETES, "cluster.env_secret=null", stages=("evaluate",))
    assert any(fault.startswith("stage evaluate needs its judge's key") for fault in find_faults(jobs, pods))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    tasks = {
        "own": {"data": "here", "split": "here", "name": "x/y"},
        "two": {"images": ["/a/b.png"], "data": "org/name"},
    }
    assert task_files(tasks) == [("tasks.own.data", "here"), ("tasks.two.images", "/a/b.png")]


def test_the_checks_before_a_job_read_what_its_tasks_read() -> None:
    settings, jobs = launched(TASKS)
    for job in (*answering(jobs).values(), jobs[-1]):
        text = render(job, settings).text
        assert "/shared/own" in text.split("scripts/doctor.py")[1].split("code=")[0], job.name


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["evaluate.tasks=[nothing]"], "tasks.nothing: there is no such task"),
        (["evaluate.tasks=nothing"], "evaluate.tasks='nothing': give {NAME:"),
        ([TASKS, "generate.prompts=/x.jsonl"], "generate.prompts beside evaluate.tasks"),
        ([TASKS, "evaluate.prompts=/x.jsonl"], "evaluate.prompts beside evaluate.tasks"),
        ([TASKS, "generate.checkpoint=/m"], "those of evaluate.checkpoints={NAME: FOLDER}"),
        ([TASKS, "evaluate.checkpoints={a/b: /m}"], "evaluate.checkpoints.a/b: "),
        ([TASKS, 'train.overrides=["recipe=attribute_model","model=llava15_13b"]'], "makes a model that rates answers"),
    ],
)
def test_mistakes_name_the_remedy(words: list[str], text: str) -> None:
    with pytest.raises(UserError) as caught:
        launched(*words)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("words", "logged"),
    [
        ((), None),
        (("train.exp_manager.create_wandb_logger=true",), f"{RUN}/dpo"),
        (("train.exp_manager.create_wandb_logger=true", "evaluate.log_to=null"), None),
    ],
)
def test_tables_reach_the_run_that_the_training_logs_to(words: tuple[str, ...], logged: str | None) -> None:
    _, jobs = launched(TASKS, *words)
    assert jobs[-1].composed.get("log_to") == logged
