"""LLaVA-Bench: what the judge is asked, the ratio of means, LLaVA's files in and out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from nemo_mm_align.benchmarks.judge_server.words import true_rating
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judging import Judged
from nemo_mm_align.evaluation.tasks.llava_bench import LlavaBenchTask
from nemo_mm_align.evaluation.tasks.task import Answered, scored_by
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.llm.question import Answer
from tests.judge_server import judge_server
from tests.unit.evaluation.task_data import CAPTIONS, LLAVA_BENCH, LLAVA_RULES, RULE, write_llava_bench

ANSWERS = {"0": "In {Hawaii}", "1": "A blue bay", "2": "A mug"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_llava_bench(tmp_path)


@pytest.fixture
def task(data: Path) -> LlavaBenchTask:
    return LlavaBenchTask(str(data), captions="whole")


def answered(task: LlavaBenchTask, replies: dict[str, list[str]]) -> list[Answered]:
    found = []
    for prompt in task.prompts(Path("unused")):
        (asked,) = task.questions(Answered(prompt, ANSWERS[prompt.id]))
        said = replies[prompt.id]
        values = tuple(asked.read(Answer(text=text)) for text in said)
        judged = {asked.key: Judged(values, tuple(said), "" if said else "safety")}
        found.append(Answered(prompt, ANSWERS[prompt.id], judged=judged))
    return found


def figures(task: LlavaBenchTask, scored: list[ScoredAnswer]) -> dict[str, float]:
    """Compute each statistic as an evaluation does: over the answers that have all of its columns."""
    found = {}
    for one in task.statistics:
        rows = [answer for answer in scored if set(one.columns) <= set(answer.columns)]
        columns = {name: np.array([row.columns[name] for row in rows]) for name in one.columns}
        found[one.measure] = float(one.compute(np.ones((1, len(rows))), columns)[0])
    return found


def test_the_judge_is_asked_as_llava_asks(task: LlavaBenchTask, data: Path) -> None:
    prompts = task.prompts(Path("unused"))
    assert prompts[0].turns[0].content == "<image>\nWhere is it?" and prompts[0].images == (
        str(data / "images/001.jpg"),
    )
    (asked,) = task.questions(Answered(prompts[0], "In {Hawaii}"))
    assert asked.question.instructions.startswith("You are a helpful and precise assistant")
    assert asked.question.parts == (
        "[Context]\nA bay.\n\n[Question]\nWhere is it?\n\n[Assistant 1]\nGPT 0\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\nIn {{Hawaii}}\n\n[End of Assistant 2]\n\n[System]\n{RULE}\n\n",
    )
    published = LlavaBenchTask(str(data))  # LLaVA joins what it takes for sentences: letters
    first, _, third = (published.questions(Answered(prompt, "x"))[0].question.texts[1] for prompt in prompts)
    assert "[Context]\nA\n \nb\na\ny\n.\n\n" in first and "[Context]\nA\nb\n\n" in third
    assert "line break after every letter" in published.cautions({})[0] and task.cautions({}) == []


def test_scores_by_hand(task: LlavaBenchTask) -> None:
    scored = scored_by(task, answered(task, {"0": ["8 6\nso"], "1": ["9 3", "10 8", "7, 7"], "2": []}))
    assert scored[0].values == {"rating": 6, "rating_gpt4": 8, "length_words": 2}
    assert scored[1].values["rating"] == 7 and scored[1].values["rating_gpt4"] == 9
    assert scored[1].values["judge_spread"] == 4  # of 5 and 3
    assert scored[2].failed == "safety" and not scored[2].columns
    found = figures(task, scored)
    assert found["score"] == pytest.approx(100 * 13 / 17)
    assert found["category.conv"] == 75 and found["category.detail"] == pytest.approx(100 * 7 / 9)
    assert [one.group for one in scored] == ["001.jpg", "001.jpg", "002.jpg"]


def test_llavas_files_in_and_out(task: LlavaBenchTask, tmp_path: Path) -> None:
    scored = scored_by(task, answered(task, {"0": ["8 6\nso"], "1": [], "2": ["9 3"]}))
    files = task.field_files("dpo", scored)
    assert sorted(files) == ["answers/dpo.jsonl", "reviews/dpo.jsonl"]
    reviews = [json.loads(line) for line in files["reviews/dpo.jsonl"].splitlines()]
    assert [(one["id"], one["tuple"], one["category"]) for one in reviews] == [
        (1, [8, 6], "llava_bench_conv"),
        (3, [9, 3], "llava_bench_conv"),
    ]
    means = np.asarray([one["tuple"] for one in reviews]).mean(0)  # as LLaVA's summarize_gpt_review
    assert 100 * means[1] / means[0] == pytest.approx(figures(task, scored)["score"])
    (tmp_path / "a.jsonl").write_text(files["answers/dpo.jsonl"])
    assert task.read_answers(tmp_path / "a.jsonl") == {key: (text,) for key, text in ANSWERS.items()}
    answer = json.loads(files["answers/dpo.jsonl"].splitlines()[0])
    assert answer["answer_id"] == reviews[0]["answer2_id"] and answer["prompt"] == "Where is it?"
    assert task.read_answers(tmp_path / "questions.jsonl") is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("context.jsonl", json.dumps(CAPTIONS[0]), r"questions.jsonl:3: question 2 has no caption of its image"),
        ("answers_gpt4.jsonl", '{"question_id": 0, "text": "x"}', r"questions.jsonl:2: question 1 has no GPT-4 answer"),
        ("rule.json", json.dumps({"conv": LLAVA_RULES["llava_bench_conv"]}), r":1: no rule for category conv"),
        ("rule.json", "[]", r"not LLaVA's rule.json"),
        ("questions.jsonl", '{"question_id": 0, "image": "001.jpg", "category": "conv"}', r":1: text is missing"),
    ],
)
def test_what_is_missing_is_told(task: LlavaBenchTask, data: Path, name: str, text: str, message: str) -> None:
    (data / name).write_text(text + "\n")
    with pytest.raises(UserError, match=message):
        task.prompts(Path("unused"))


def test_a_dataset_holds_the_same_questions(task: LlavaBenchTask, data: Path) -> None:
    Image.new("RGB", (4, 4)).save(data / "a.png")
    picture = {"bytes": (data / "a.png").read_bytes(), "path": None}
    rows = [
        {
            "question_id": one["question_id"],
            "image": picture,
            "question": one["text"],
            "caption": "A bay.",
            "gpt_answer": f"GPT {one['question_id']}",
            "category": one["category"],
        }
        for one in LLAVA_BENCH
    ]
    Dataset.from_list(rows).to_parquet(data / "train.parquet")
    stored = LlavaBenchTask(str(data / "train.parquet"), str(data / "rule.json"), "whole")
    prompts = stored.prompts(data / "cache")
    asked = [one.questions(Answered(prompts[0], "x"))[0].question.parts for one in (stored, task)]
    assert asked[0] == asked[1] and len(prompts) == 3
    assert Path(prompts[0].images[0]).parent == data / "cache"
    with pytest.raises(UserError, match="a dataset has no rules"):
        LlavaBenchTask(str(data / "train.parquet")).prompts(data)


def test_a_served_judge_rates_both(task: LlavaBenchTask) -> None:
    with judge_server() as server:
        client = OpenAICompatible(f"{server.address}/v1", "judge", api_key_variable=None)
        (asked,) = task.questions(Answered(task.prompts(Path("x"))[0], "In Hawaii"))
        assert asked.read(client.ask(asked.question))["rating"] == true_rating(asked.question.texts[1])
