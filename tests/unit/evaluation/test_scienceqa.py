import json

import pytest

from nemo_mm_align.core.errors import UserError
from tests.unit.evaluation.scored import figures, prompts_of, score, task_of
from tests.unit.evaluation.task_data import PROBLEMS, write_scienceqa


@pytest.fixture
def folder(tmp_path):
    return write_scienceqa(tmp_path)


def write_llava(folder):
    asked = [
        {"id": key, "conversations": [{"from": "human", "value": f"{PROBLEMS[key]['question']}\nA. x\nB. y"}]}
        | ({"image": f"{key}/image.png"} if PROBLEMS[key]["image"] else {})
        for key in ("4", "7", "9")
    ]
    (folder / "llava_test_CQM-A.json").write_text(json.dumps(asked))


def test_figures_are_those_by_hand(folder, tmp_path):
    write_llava(folder)
    task = task_of("scienceqa", data=str(folder))
    prompts = prompts_of(task, tmp_path)
    answers = tmp_path / "answers.jsonl"
    texts = {"4": "B", "7": "D", "9": "The answer is A."}  # D is none of question 7's three
    answers.write_text("".join(json.dumps({"question_id": key, "text": text}) + "\n" for key, text in texts.items()))
    scored = score(task, prompts, task.read_answers(answers))
    assert figures(task, scored) == pytest.approx(
        {
            "image_accuracy": 1 / 2,
            "accuracy": 2 / 3,
            "unparsable": 1 / 3,
            "subject.NAT": 1,
            "subject.SOC": 0,
            "subject.LAN": 1,
            "context.IMG": 1 / 2,
            "context.TXT": 0,
            "context.NO": 1,
            "grades.G1-6": 1 / 2,
            "grades.G7-12": 1,
        }
    )
    assert {one.name: one.published for one in task.sources} == {
        "llava_test_CQM-A.json": None,
        "problems.json": None,
        "pid_splits.json": False,
    }
    (written,) = task.field_files("dpo", scored).values()
    assert [(one["question_id"], one["text"]) for one in map(json.loads, written.splitlines())] == list(texts.items())
    assert all(
        ("<image>" in json.loads(line)["prompt"]) == (json.loads(line)["question_id"] != "9")
        for line in written.splitlines()
    )


def test_llavas_questions_are_asked_with_the_picture_first(folder, tmp_path):
    write_llava(folder)
    prompts = prompts_of(task_of("scienceqa", data=str(folder)), tmp_path)
    suffix = "Answer with the option's letter from the given choices directly."
    assert prompts["4"].turns[0].content == f"<image>\nWhich is it?\nA. x\nB. y\n{suffix}"
    assert prompts["9"].turns[0].content == f"Say  it?\nA. x\nB. y\n{suffix}" and not prompts["9"].images
    assert prompts["4"].images == (str(folder / "images/test/4/image.png"),)
    assert prompts["4"].decoding.temperature == 0 and prompts["4"].decoding.max_new_tokens == 1024


def test_without_llavas_file_questions_are_put_together(folder, tmp_path):
    prompts = prompts_of(task_of("scienceqa", data=str(folder), suffix="", image_root="/pictures"), tmp_path)
    assert prompts["7"].question == "Context: A text.\nQuestion: And this?\nOptions: (A) c (B) d (C) e"
    assert (
        prompts["9"].question == "Context: N/A\nQuestion: Say it?\nOptions: (A) f (B) g"
    )  # double blanks go, as in LLaVA's
    assert prompts["7"].images == ("/pictures/7/image.png",)
    assert list(prompts_of(task_of("scienceqa", data=str(folder), split="val"), tmp_path)) == ["11"]


def test_rows_of_a_dataset(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS.values()))
    task = task_of("scienceqa", data=str(path))
    prompts = prompts_of(task, tmp_path)
    assert list(prompts) == ["test-1", "test-2", "test-3", "test-4"]
    assert figures(task, score(task, prompts, dict.fromkeys(prompts, "A")))["accuracy"] == 3 / 4
    path.write_text(json.dumps({**PROBLEMS["4"], "answer": 2}) + "\n")
    with pytest.raises(UserError, match=r"rows\.jsonl:1.*answer=2 is the place of none of its 2 choices"):
        task_of("scienceqa", data=str(path)).prompts(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pid_splits.json", {"test": ["4", "5"]}, "question 5 is not there"),
        ("pid_splits.json", {"test": ["4", "4"]}, "stands twice in split 'test'"),
        ("pid_splits.json", {"val": ["4"]}, "no split 'test'. It has val"),
        ("problems.json", [], "holds no JSON object"),
        ("llava_test_CQM-A.json", [{"id": "4", "conversations": []}], "no first turn"),
        ("llava_test_CQM-A.json", [{"id": "4"}, {"id": "4"}], "id 4 stands in line 1 already"),
    ],
)
def test_broken_files_are_named(folder, tmp_path, name, content, message):
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        task_of("scienceqa", data=str(folder)).prompts(tmp_path)


def test_a_folder_that_lacks_the_problems(folder, tmp_path):
    (folder / "problems.json").unlink()
    with pytest.raises(UserError, match=r"no problems\.json"):
        task_of("scienceqa", data=str(folder)).prompts(tmp_path)
