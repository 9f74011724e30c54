"""An attribute schema of a user's own, kept outside of the repository, from the judge to a steered answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, Candidate, CandidateSet, Prompt, read_records, write_records
from tests.tiny import tiny_llava, training_data
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e

SCHEMA = """
name: mine
score: [made-up, clarity]
attributes:
  - {name: made-up, integer: false, maximum: 1, higher_is_better: false, levels: {0: nothing, 0.5: half, 1: all}}
  - {name: clarity, integer: false, maximum: 1}
  - {name: tone, minimum: 1, maximum: 3, higher_is_better: null, levels: {1: cold, 3: warm}}
"""


class Commands:
    """The scripts, started in a folder that holds the schema in ``conf/attribute_schema/mine.yaml``."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository, self.folder = repository, folder
        self.own_schema = [f"hydra.searchpath=[file://{folder}/conf]", "attribute_schema=mine"]
        (folder / "conf/attribute_schema").mkdir(parents=True)
        (folder / "conf/attribute_schema/mine.yaml").write_text(SCHEMA)

    def run(self, script: str, *overrides: str, code: int = 0) -> str:
        command = [sys.executable, str(self.repository / f"scripts/{script}.py"), *overrides]
        environment = os.environ | {"PYTHONPATH": str(self.repository)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(command, cwd=self.folder, env=environment, timeout=PATIENCE_S, check=False, **pipes)
        assert done.returncode == code, done.stdout[-4000:]
        return done.stdout


def write_inputs(folder: Path) -> None:
    """Prompts with images, each with two answers of different length."""
    training_data(folder, "preference", count=6)
    prompts, candidates = [], []
    for line in (folder / "preference.jsonl").read_text().splitlines():
        record = json.loads(line)
        prompts.append(Prompt(id=record["id"], images=record["images"], turns=record["turns"]))
        answers = tuple(Candidate(text=record[key]) for key in ("chosen", "rejected"))
        candidates.append(CandidateSet(prompt_id=record["id"], candidates=answers))
    write_records(folder / "prompts.jsonl", prompts)
    write_records(folder / "candidates.jsonl", candidates)


def test_own_names_fractions_and_lower_is_better_from_judge_to_answer(tmp_path: Path, repository: Path) -> None:
    write_inputs(tmp_path)
    model = tiny_llava(tmp_path / "model", layers=2)
    commands = Commands(repository, tmp_path)
    files = ["prompts=prompts.jsonl", "candidates=candidates.jsonl", "out=annotations.jsonl"]
    judge = ["judge=oracle", "judge._target_=tests.e2e.length_judge.LengthJudge"]
    commands.run("label", *files, *judge, *commands.own_schema)
    first = next(read_records(tmp_path / "annotations.jsonl", Annotation))
    assert [item.ratings for item in first.candidates] == [
        {"made-up": 0.7, "clarity": 0.3, "tone": 2},
        {"made-up": pytest.approx(0.1), "clarity": 0.9, "tone": 3},
    ]

    annotations = "annotations=annotations.jsonl"
    output = commands.run("build", "method=steerlm", annotations, "out=steerlm.jsonl", code=2)
    assert "was annotated by schema 'mine'" in output and "not by 'helpsteer'" in output
    commands.run("build", "method=steerlm", annotations, "out=steerlm.jsonl", *commands.own_schema)
    (pair, *_) = _pairs(commands, annotations)
    assert (pair["chosen_score"], pair["rejected_score"]) == pytest.approx((1.8, 0.6))

    small = ["precision=fp32", "model.max_length=300", "model.micro_batch_size=2", "model.global_batch_size=4"]
    small += ["model.lora.rank=4", "recipe.epochs=1", "checkpoint.every_n_steps=0"]
    run = ["recipe=steerlm", "model=mini", f"model.hf_path={model}", "data.train=steerlm.jsonl"]
    commands.run("train", *run, f"exp_manager.exp_dir={tmp_path}/runs", *small, *commands.own_schema)
    (metadata,) = (tmp_path / "runs/steerlm/checkpoints").glob("*/metadata.json")
    stored = json.loads(metadata.read_text())["attribute_schema"]
    assert [attribute["name"] for attribute in stored["attributes"]] == ["made-up", "clarity", "tone"]
    assert stored["attributes"][0]["levels"] == {"0": "nothing", "0.5": "half", "1": "all"}

    ask = ["checkpoint=runs/steerlm", "prompts=prompts.jsonl", "max_new_tokens=4"]
    commands.run("generate", *ask, "out=answers.jsonl", "attributes.made-up=0.5")
    answers = list(read_records(tmp_path / "answers.jsonl", CandidateSet))
    assert len(answers) == 6
    assert {json.dumps(item.sampling["attributes"]) for item in answers} == {
        '{"made-up": 0.5, "clarity": 1.0, "tone": 2}'
    }
    with pytest.raises(UserError, match="unknown attribute 'verbosity'; schema 'mine' has made-up, clarity, tone"):
        AttributeSchema.model_validate(stored).complete({"verbosity": 0})


def _pairs(commands: Commands, annotations: str) -> list[dict]:
    rule = ["method=best_worst", "method.margin=0.4", "out=pairs.jsonl"]
    commands.run("build", *rule, annotations, *commands.own_schema)
    return [json.loads(line) for line in (commands.folder / "pairs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("finder", ["hydra.searchpath=[file://{conf}]", "--config-dir={conf}"])
def test_a_shipped_and_an_own_schema_are_found_by_name(tmp_path: Path, repository: Path, finder: str) -> None:
    commands = Commands(repository, tmp_path)
    options = [finder.format(conf=tmp_path / "conf"), "attribute_schema=mine"]
    assert "- name: made-up" in commands.run("build", *options, "--cfg", "job")
    assert "name: vision_hallucination" in commands.run(
        "build", "attribute_schema=vision_hallucination", "--cfg", "job"
    )
    (tmp_path / "conf/attribute_schema/mine.yaml").write_text(SCHEMA.replace("clarity,", "made_up,"))
    output = commands.run("build", *options, "method=sft", "annotations=a", "out=b", code=2)
    assert "attribute names must be present and distinct" in output and "Traceback" not in output
