import json

import pytest

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.evaluation.tasks.matching import Form, contains, is_exact
from nemo_mm_align.schema.records import Prompt, Turn
from tests.unit.evaluation.scored import figures, prompts_of, score, task_of
from tests.unit.evaluation.task_data import OWN_ROWS


def write(tmp_path, *rows):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_figures_are_those_by_hand(tmp_path):
    task = task_of("own", data=write(tmp_path, *OWN_ROWS), max_new_tokens=7)
    prompts = prompts_of(task, tmp_path)
    assert list(prompts) == ["q1", "own-2", "own-3", "whole"]
    scored = score(task, prompts, {"q1": " Two. ", "own-2": "It's dark blues.", "own-3": "either", "whole": "1.5"})
    assert figures(task, scored) == {"correct": 2 / 4, "unparsable": 1, "category.numbers": 1, "category.colours": 0}
    assert scored[0].group == "picture-1" and [one.source for one in scored] == ["numbers", "colours", "", ""]
    better = score(task, prompts, {"own-2": "a Dark\nblue, sky", "own-3": "B"})
    assert [one.values["correct"] for one in better] == [1, 1]
    assert [task.reference(one) for one in prompts.values()] == ["two or 2", "dark blue", "B. dog", "1.5"]


def test_prompts_are_asked_as_they_stand(tmp_path):
    prompts = prompts_of(task_of("own", data=write(tmp_path, *OWN_ROWS), max_new_tokens=7), tmp_path)
    assert prompts["own-3"].turns[0].content == "Which?\nA. cat\nB. dog"
    assert prompts["own-2"].turns[0].content == "<image>\nWhat colour?"
    assert prompts["own-2"].images == (str(tmp_path / "sky.png"),)
    assert (prompts["q1"].decoding.temperature, prompts["q1"].decoding.max_new_tokens) == (0, 7)
    assert prompts["whole"].decoding.temperature == 0.7


def test_prompts_from_elsewhere_carry_their_answers(tmp_path):
    task = task_of("own", data="unread.jsonl")
    prompt = Prompt(id="p", turns=(Turn(role="user", content="?"),), metadata={"answer": "yes"})
    assert score(task, {"p": prompt}, {"p": "Yes!"})[0].values["correct"] == 1
    with pytest.raises(UserError, match="prompt p: answer=None is no text"):
        score(task, {"p": prompt.model_copy(update={"metadata": {}})}, {"p": "Yes!"})


@pytest.mark.parametrize(
    ("form", "pairs"),
    [
        (Form(), {("Don't!", "dont"): True, ("1.5", "15"): False, ("-3", "3"): False, ("e.g.", "eg"): True}),
        (Form(), {("the cat", "cat"): False, ("ＡＢＣ", "abc"): True, ("", ""): False, ("?", "!"): False}),
        (Form(articles=True), {("The cat", "a  cat"): True, ("Theo", "o"): False}),
        (Form(case=False), {("Yes", "yes"): False, ("yes.", "yes"): True}),
        (Form(punctuation=False), {("yes.", "yes"): False, ("Yes", "yes"): True}),
        (Form(whitespace=False), {("a  b", "a b"): False, ("a b", "a b"): True}),
    ],
)
def test_what_does_not_count_is_a_setting(form, pairs):
    assert {pair: is_exact(pair[0], [pair[1]], form) for pair in pairs} == pairs


def test_contained_are_whole_words():
    assert contains("Concatenate a cat.", ["cat"], Form()) and not contains("Concatenate.", ["cat"], Form())
    assert contains("It costs $5 today", ["$5"], Form()) and not contains("It costs $50", ["$5"], Form())
    assert not contains("", ["cat"], Form()) and not contains("a cat", ["!"], Form())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?", "answer": "a", "rubric": "Be kind."}, "own.jsonl:2: has a rubric.*task=own_rubric"),
        ({"id": "q1", "question": "?", "answer": "a"}, "own.jsonl:2: id q1 stands in line 1 already"),
        ({"question": "?"}, r"own.jsonl:2: .*answer=None is no text"),
        ({"question": "?", "answer": []}, r"answer=\[\] is no text"),
        ({"question": "?", "answer": "a", "scoring": "fuzzy"}, "scoring='fuzzy' is none of exact, contains, choice"),
        ({"question": "?", "answer": "a", "scoring": "choice"}, "needs two or more different choices"),
        ({"question": "?", "answer": "c", "scoring": "choice", "choices": ["a", "b"]}, "'c' is none of the choices"),
        ({"question": "?", "answr": "a"}, "no field is called answr. Did you mean answer"),
        ({"answer": "a"}, "question is missing"),
        ({"question": "<image> <image>", "answer": "a", "image": "a.png"}, "2 <image> placeholders for 1 images"),
    ],
)
def test_broken_rows_name_their_line(tmp_path, row, message):
    with pytest.raises(RecordError, match=message):
        task_of("own", data=write(tmp_path, OWN_ROWS[0], row)).prompts(tmp_path)
