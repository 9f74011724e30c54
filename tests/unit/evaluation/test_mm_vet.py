"""MM-Vet: the table's last row, what replies come to, the evaluator's files in and out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from datasets import Dataset

from nemo_mm_align.benchmarks.judge_server.words import true_rating
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.judging import Judged
from nemo_mm_align.evaluation.tasks import mm_vet_data
from nemo_mm_align.evaluation.tasks.mm_vet import MMVetTask
from nemo_mm_align.evaluation.tasks.task import Answered, scored_by
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.llm.question import Answer
from tests.judge_server import judge_server
from tests.unit.evaluation.task_data import MM_VET, TABLE, write_mm_vet

ANSWERS = {"v1_0": "x = -1", "v1_1": "It is {d}.", "v1_2": "A cat"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_mm_vet(tmp_path)[0]


@pytest.fixture
def task(data: Path, tmp_path: Path) -> MMVetTask:
    return MMVetTask(str(data), str(tmp_path / "prompt.txt"))


def answered(task: MMVetTask, replies: dict[str, list[str]]) -> list[Answered]:
    found = []
    for prompt in task.prompts(Path("unused")):
        said = replies[prompt.id]
        (asked,) = task.questions(Answered(prompt, ANSWERS[prompt.id]))
        values = tuple(asked.read(Answer(text=text)) for text in said)
        judged = {asked.key: Judged(values, tuple(said), "" if said else "unparsable")}
        found.append(Answered(prompt, ANSWERS[prompt.id], judged=judged))
    return found


def test_the_judge_completes_the_table(task: MMVetTask, data: Path) -> None:
    prompts = task.prompts(Path("unused"))
    assert prompts[0].turns[0].content == "<image>\nWhat is x?" and prompts[0].decoding.temperature == 0
    assert prompts[2].images == (str(data / "images/b.png"),)
    rows = [task.questions(Answered(prompt, ANSWERS[prompt.id]))[0].question for prompt in prompts]
    assert rows[0].parts == (TABLE + "\nWhat is x? | -1 <AND> -5 | x = -1 | ",) and rows[0].instructions == ""
    assert rows[1].parts == (TABLE + "\nWhat is d? | 1.25 <OR> 5/4 | It is {d}. | ",)


def test_scores_by_hand(task: MMVetTask) -> None:
    one, two, three = scored_by(task, answered(task, {"v1_0": ["0.5"], "v1_1": ["1.0", "0.0", "0.5"], "v1_2": []}))
    assert one.values == {
        "score": 50,
        "capability.ocr": 50,
        "capability.math": 50,
        "combination.math_ocr": 50,
        "length_words": 3,
    }
    assert two.values["score"] == two.values["combination.math_ocr"] == 50  # the mean of three runs
    assert two.values["judge_spread"] == 100 and two.judgements == ("1.0", "0.0", "0.5")
    assert three.failed == "unparsable" and not three.values
    assert [one.group, two.group, three.group] == ["a.png", "a.png", "b.png"]


def test_the_evaluators_files_in_and_out(task: MMVetTask, tmp_path: Path) -> None:
    scored = scored_by(task, answered(task, {"v1_0": ["0.5"], "v1_1": ["1.0"], "v1_2": []}))
    files = task.field_files("dpo", scored)
    assert sorted(files) == ["results/dpo.json", "results/dpo_judge-grade-1runs.json"]
    grades = json.loads(files["results/dpo_judge-grade-1runs.json"])
    assert grades["v1_1"] == {"model": ["judge"], "content": ["1.0"], "score": [1.0]} and "v1_2" not in grades
    path = tmp_path / "dpo.json"
    path.write_text(files["results/dpo.json"])
    assert task.read_answers(path) == {key: (text,) for key, text in ANSWERS.items()}
    lines = [{"question_id": number, "text": text} for number, text in enumerate(ANSWERS.values())]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert task.read_answers(path) == {key: (text,) for key, text in ANSWERS.items()}
    path.write_text(json.dumps({"prompt_id": "v1_0", "candidates": []}) + "\n")
    assert task.read_answers(path) is None


def test_the_prompt_is_found_in_the_evaluator(data: Path, tmp_path: Path, monkeypatch) -> None:
    code = f'import nothing_of_that_name\n\nprompt = """{TABLE}"""\n\nraise SystemExit(1)\n'
    cells = [{"cell_type": "code", "source": ["%pip install x\n"]}, {"cell_type": "code", "source": [code]}]
    (tmp_path / "e.py").write_text(code)
    (tmp_path / "e.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "e.txt").write_text(TABLE.rstrip("\n"))
    found = [MMVetTask(str(data), str(tmp_path / f"e.{kind}")) for kind in ("py", "ipynb", "txt")]
    assert {task.examples for task in found} == {TABLE}
    assert {task.sources[1].published for task in found} == {False}
    monkeypatch.setattr(mm_vet_data, "PROMPT_SHA256", hashlib.sha256(TABLE.encode()).hexdigest())
    assert {task.sources[1].said[:12] for task in found} == {"as published"}
    (tmp_path / "e.py").write_text("prompts = 1\n")
    with pytest.raises(UserError, match=r'e.py: no prompt = """..."""'):
        _ = MMVetTask(str(data), str(tmp_path / "e.py")).examples


def test_a_dataset_holds_the_same_questions(task: MMVetTask, data: Path, tmp_path: Path) -> None:
    rows = [
        {
            "question_id": key,
            "image": {"bytes": (data / "images" / one["imagename"]).read_bytes(), "path": None},
            "question": one["question"],
            "answer": one["answer"],
            "capability": ",".join(one["capability"]),
        }
        for key, one in MM_VET.items()
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "test.parquet")
    stored = MMVetTask(str(tmp_path / "test.parquet"), str(tmp_path / "prompt.txt"))
    found = stored.prompts(tmp_path / "cache")
    assert [one.question for one in found] == [one.question for one in task.prompts(tmp_path)]
    assert stored.items["v1_1"].combination == "math_ocr"
    assert Path(found[2].images[0]).parent == tmp_path / "cache" and Path(found[2].images[0]).is_file()


def test_what_is_missing_is_told(task: MMVetTask, data: Path) -> None:
    with pytest.raises(UserError, match=r"task.examples=\.\.\."):
        _ = MMVetTask(str(data), "nowhere.py").examples
    (data / "mm-vet.json").write_text(json.dumps({"v1_0": MM_VET["v1_0"], "v1_1": {"question": "?"}}))
    with pytest.raises(UserError, match=r"mm-vet.json:2: imagename is missing"):
        task.prompts(Path("unused"))
    (data / "mm-vet.json").write_text("[1]")
    with pytest.raises(UserError, match=r"not MM-Vet's form"):
        MMVetTask(str(data), "x").prompts(Path("unused"))


def test_a_served_judge_completes_it(task: MMVetTask) -> None:
    with judge_server() as server:
        client = OpenAICompatible(f"{server.address}/v1", "judge", api_key_variable=None)
        (asked,) = task.questions(Answered(task.prompts(Path("x"))[0], "x = -1"))
        assert asked.read(client.ask(asked.question)) == {"rating": true_rating(asked.question.texts[1]) / 10}
