"""Questions and a rubric of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.judging import Judged
from nemo_mm_align.evaluation.tasks.own_rubric import OwnRubricTask
from nemo_mm_align.evaluation.tasks.task import Answered, scored_by
from nemo_mm_align.llm.question import Answer
from nemo_mm_align.schema.records import Decoding
from tests.unit.evaluation.fastchat_files import write_lines
from tests.unit.evaluation.task_data import RUBRIC, write_own_rubric


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    lines, rubric = write_own_rubric(tmp_path)
    return str(lines), str(rubric)


def test_the_judge_reads_the_rubric_and_sees_the_image(files: tuple[str, str], tmp_path: Path) -> None:
    task = OwnRubricTask(*files, temperature=0.0)
    one, two = task.prompts(Path("unused"))
    assert one.turns[0].content == "<image>\nWhich {colour}?" and one.images == (str(tmp_path / "a.png"),)
    assert two.turns[0].content == "Be brief." and two.decoding == Decoding(temperature=0)
    shown = Answered(one, "{reference}", image_paths=(tmp_path / "a.png",))
    question = task.questions(shown)[0].question
    assert [image.path for image in question.images] == [tmp_path / "a.png"]
    told = RUBRIC.replace("{question}", "Which {colour}?").replace("{answer}", "{reference}", 1)
    assert question.parts[1] == told[: told.rindex("{reference}")] + "red\n"
    assert not OwnRubricTask(*files, show_images=False).questions(shown)[0].question.images


def test_scores_by_hand(files: tuple[str, str]) -> None:
    task = OwnRubricTask(*files, highest=5, name="mine")
    found = []
    for prompt, said in zip(task.prompts(Path("x")), (["[[4]]", "[[2]]"], []), strict=True):
        (asked,) = task.questions(Answered(prompt, "a b"))
        values = tuple(asked.read(Answer(text=text)) for text in said)
        found.append(Answered(prompt, "a b", judged={asked.key: Judged(values, tuple(said), "" if said else "server")}))
    one, two = scored_by(task, found)
    assert one.values == {"score": 3, "category.colours": 3, "several_ratings": 0, "judge_spread": 2, "length_words": 2}
    assert (one.source, one.group, two.failed, task.name) == ("colours", "a", "server", "mine")
    assert task.reference(found[1].prompt) == "because"


def test_replies_as_json_are_bound_to_a_schema(files: tuple[str, str]) -> None:
    (asked,) = (task := OwnRubricTask(*files, reply="json")).questions(Answered(task.prompts(Path("x"))[0], "a"))
    assert asked.question.response_schema["required"] == ["explanation", "score"]
    assert asked.read(Answer(text='{"explanation": "so", "score": 7}'))["rating"] == 7


def test_prompts_are_questions_too(files: tuple[str, str], tmp_path: Path) -> None:
    turns = [("user", "Hi <image>"), ("assistant", "Hello"), ("user", "Why?")]
    prompt = {"turns": [{"role": role, "content": text} for role, text in turns], "images": ["a.png"], "id": "p"}
    write_lines(tmp_path / "own.jsonl", [{**prompt, "metadata": {"reference": "so"}}])
    task = OwnRubricTask(*files)
    text = task.questions(Answered(task.prompts(Path("x"))[0], "a"))[0].question.parts[-1]
    assert "Q: User: Hi\n\nAssistant: Hello\n\nUser: Why?\nA: a\nTruth: so\n" in text


@pytest.mark.parametrize(
    ("line", "rubric", "message"),
    [
        ({"id": 1}, RUBRIC, r"own.jsonl:1: question is missing"),
        ({"question": "?"}, RUBRIC, r"own.jsonl:1: id is missing"),
        ({"id": 1, "question": "?", "answer": "x"}, RUBRIC, r":1: unknown key answer"),
        ({"id": 1, "question": "?"}, RUBRIC, r"question 1 has no reference, which .*rubric.txt shows"),
        ({"id": 1, "question": "?"}, "{question}", r"no place for \{answer\}"),
        ({"id": 1, "question": "?"}, "{question}{anser}", r"\{anser\} stands for nothing here. Did you mean answer"),
        (
            {"id": 1, "question": "?", "image": "../a.png"},
            RUBRIC,
            r"own.jsonl:1: image path '../a.png' does not name a file",
        ),
        (
            {"id": 1, "question": "<image> <image>", "image": "a.png"},
            RUBRIC,
            r":1: 2 <image> placeholders for 1 images",
        ),
    ],
)
def test_what_is_wrong_is_told(files: tuple[str, str], tmp_path: Path, line: dict, rubric: str, message: str) -> None:
    write_lines(tmp_path / "own.jsonl", [line])
    (tmp_path / "rubric.txt").write_text(rubric)
    with pytest.raises(UserError, match=message):
        OwnRubricTask(*files).prompts(Path("x"))


def test_settings_that_contradict_each_other(files: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"task.lowest=5 is not below task.highest=5"):
        OwnRubricTask(*files, lowest=5, highest=5)
    with pytest.raises(UserError, match=r"task.rating=last is about ratings in brackets"):
        OwnRubricTask(*files, reply="json", rating="last")
