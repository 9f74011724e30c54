"""Every task in one command: models answer small data in the published layouts, a local judge says its part, one report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nemo_mm_align.core.repository import PACKAGE
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.schema.records import Prompt, Turn, read_records, write_records
from nemo_mm_align.workflow.overrides import override_value
from tests.judge_server import JudgeServer, judge_server
from tests.tiny import tiny_llava
from tests.unit.evaluation import task_data
from tests.unit.evaluation.fastchat_files import write_mt_bench
from tests.unit.evaluation.judged import helpsteer
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TOKENS = 4
"""Of each answer: enough to be asked about, and soon there."""
METHODS = ("base", "tiny", "tiny_unasked")
JUDGED = {"mt_bench": 3, "mm_vet": 3, "llava_bench": 3, "alpaca_eval": 6, "own_rubric": 2, "attributes": 2}
PROMPTS = {**JUDGED, "pope": 12, "mmbench": 7, "scienceqa": 3, "ifeval": 3, "own": 4}
"""Of each task; MMBench's three questions of 3, 2 and 2 options are asked in every order."""
SWEPT = 21
"""What each prompt of `steering` is answered for: five values of five attributes, the defaults once."""
OF_THE_FIELD = {*PROMPTS} - {"own", "own_rubric", "attributes"}
PASSING = ("created", "reproduction", "cost")
"""Of results.json: when, how and for how much."""


def write_tasks(folder: Path) -> dict[str, dict[str, Any]]:
    """Write the data of all tasks; return what the command says of each."""
    mm_vet, examples = task_data.write_mm_vet(folder / "mm_vet")
    baseline, judge_prompt = task_data.write_alpaca_eval(folder / "alpaca_eval")
    questions, rubric = task_data.write_own_rubric(
        folder / "own_rubric", "{question} {answer} {reference} Rate as [[rating]], from 1 to 10."
    )
    prompts = [Prompt(id=f"p{n}", turns=(Turn(role="user", content=f"red {n} blue?"),)) for n in range(2)]
    write_records(folder / "prompts.jsonl", prompts)
    short = {
        "mt_bench": {"data": write_mt_bench(folder)},
        "mm_vet": {"data": mm_vet, "examples": examples},
        "llava_bench": {"data": task_data.write_llava_bench(folder / "llava_bench")},
        "alpaca_eval": {"baseline": baseline, "judge_prompt": judge_prompt},
        "pope": {"data": task_data.write_pope(folder / "pope")},
        "mmbench": {"data": task_data.write_mmbench(folder)},
        "scienceqa": {"data": task_data.write_scienceqa(folder / "scienceqa")},
        "ifeval": {"data": task_data.write_ifeval(folder / "ifeval")},
        "own": {"data": task_data.write_own(folder / "own")},
        "own_rubric": {"data": questions, "rubric": rubric},
    }
    limited = {name: {key: str(value) for key, value in said.items()} for name, said in short.items()}
    shared = {"data": str(folder / "prompts.jsonl")}
    own = {name: {**said, "max_new_tokens": TOKENS} for name, said in limited.items()}
    return {**own, "attributes": shared, "steering": shared}


@dataclass(frozen=True)
class Place:
    """A folder with the tasks' data and two models, and the judge that is asked there."""

    folder: Path
    tasks: Mapping[str, Mapping[str, Any]]
    judge: JudgeServer

    def run(self, repository: Path, out: str, **settings: Any) -> dict[str, Any]:
        """Evaluate all tasks; return results.json."""
        judge = {"base_url": f"{self.judge.address}/v1", "model": "j", "api_key_variable": None}
        words = [f"{name}={override_value(value)}" for name, value in {"tasks": self.tasks, **settings}.items()]
        words += [
            "judge=openai_compatible",
            *(f"judge.{name}={override_value(value)}" for name, value in judge.items()),
        ]
        command = [sys.executable, str(repository / "scripts/evaluate.py"), *words, f"out={out}"]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        found: dict[str, Any] = json.loads((self.folder / out / "results.json").read_text())
        return found

    def answers(self) -> dict[str, tuple[bytes, int]]:
        """Content and time of each task's answers."""
        files = [
            path
            for path in (self.folder / "out.answers").rglob("*.jsonl")
            if path.name.removesuffix(".jsonl") in self.tasks
        ]
        assert len(files) == len(METHODS) * len(PROMPTS) + 1
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    config = tiny_llava(tmp_path / "tiny") / "config.json"
    schema = {"attribute_schema": helpsteer().model_dump(mode="json")}  # what the export of a SteerLM model says
    config.write_text(json.dumps({**json.loads(config.read_text()), **schema}))
    with judge_server(allow_text=True) as server:
        yield Place(tmp_path, write_tasks(tmp_path), server)


def lasting(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: value for key, value in task.items() if key not in PASSING}
        for name, task in results["tasks"].items()
    }


def check_results(results: dict[str, Any]) -> None:
    assert {*results["tasks"]} == {*PROMPTS, "steering"}
    for name, count in PROMPTS.items():
        task = results["tasks"][name]
        assert tuple(task["methods"]) == METHODS and sum(task["prompts"].values()) == count
        for method in METHODS:
            found = task["methods"][method]["measurements"].values()
            assert max(one["n"] for one in found) == count, (name, method)
            assert not any(one["failed"] for one in found), (name, method)
        assert (task["cost"] is not None) == (name in JUDGED)
    steering = results["tasks"]["steering"]
    assert [*steering["methods"]] == ["tiny"] and [*steering["steering_by_method"]] == ["tiny"]
    curves = steering["steering_by_method"]["tiny"]
    assert {name: [point["count"] for point in curve["curve"]] for name, curve in curves.items()} == {
        attribute.name: [2] * 5 for attribute in helpsteer().attributes
    }


def check_files(out: Path) -> None:
    """A judged line per prompt and method, the field's files of each method, and a section per task in both reports."""
    for name, count in PROMPTS.items():
        lines = {path.stem: list(read_records(path, ScoredAnswer)) for path in (out / "judged" / name).iterdir()}
        assert {method: len({one.prompt_id for one in answers}) for method, answers in lines.items()} == dict.fromkeys(
            METHODS, count
        )
        assert all(len(answers) == count and not any(one.failed for one in answers) for answers in lines.values())
    swept = list(read_records(out / "judged/steering/steering/tiny.jsonl", ScoredAnswer))
    assert len(swept) == 2 * SWEPT and len({json.dumps(one.asked) for one in swept}) == SWEPT
    assert {path.name for path in (out / "field").iterdir()} == OF_THE_FIELD
    for name in OF_THE_FIELD:
        files = [str(path.relative_to(out)) for path in (out / "field" / name).rglob("*") if path.is_file()]
        for method in METHODS:
            assert any(f"{method}." in file or f"{method}_" in file or f"/{method}/" in file for file in files), files
    html, text = (out / "report.html").read_text(), (out / "report.md").read_text().replace("\\_", "_")
    for name in (*PROMPTS, "steering"):
        assert f"<h2>{name}</h2>" in html and f"\n## {name}\n" in text


def test_every_task_in_one_command_again_and_from_its_answers(repository: Path, place: Place) -> None:
    models = {"base": str(PACKAGE / "miniature/base"), "tiny": str(place.folder / "tiny")}
    settings = {"checkpoints": models, "generate": {"max_new_tokens": TOKENS}}
    results = place.run(repository, "out", **settings)
    check_results(results)
    check_files(place.folder / "out")

    asked, answers = len(place.judge.exchanges), place.answers()
    again = place.run(repository, "out", **settings)
    assert len(place.judge.exchanges) == asked > 0, "the judge is asked nothing twice"
    assert place.answers() == answers, "nothing is generated twice"
    assert lasting(again) == lasting(results)

    given = {method: f"out.answers/{method}" for method in METHODS}
    assert lasting(place.run(repository, "given", answers=given)) == lasting(results)
