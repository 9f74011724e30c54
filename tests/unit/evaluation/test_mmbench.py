import json

import openpyxl
import pytest
from PIL import Image

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.evaluation.tasks.task import Answered, scored_by
from tests.unit.evaluation.scored import figures, prompts_of, score, task_of
from tests.unit.evaluation.task_data import MMBENCH_HEAD, MMBENCH_ROWS, base64_picture, write_mmbench, write_table


@pytest.fixture
def table(tmp_path):
    return write_mmbench(tmp_path)


def test_every_question_is_asked_with_its_options_turned(table, tmp_path):
    prompts = prompts_of(task_of("mmbench", data=str(table)), tmp_path / "images")
    assert list(prompts) == ["0", "1000000", "2000000", "1", "1000001", "2", "1000002"]
    assert prompts["1000000"].turns[0].content == (
        "<image>\nLook at\nthe sky.\nWhich colour?\nA. blue\nB. green\nC. red\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert [prompts[key].metadata["mmbench"]["answer"] for key in prompts] == ["B", "A", "C", "A", "B", "B", "A"]
    assert prompts["2"].question.startswith("Why?\nA. so")  # a hint called nan is none
    assert prompts["1"].decoding.temperature == 0 and prompts["1"].decoding.max_new_tokens == 1024
    with Image.open(prompts["1000001"].images[0]) as image:
        assert image.size == (5, 4) and image.getpixel((0, 0)) == (1, 0, 0)


ANSWERS = {"0": "B", "1000000": "A. blue", "2000000": "C", "1": "A", "1000001": "A", "2": "because", "1000002": "A"}
"""Question 0 is right in all orders, 1 in one of two, 2 in the second alone: the first answer chooses nothing."""


def test_figures_are_those_by_hand(table, tmp_path):
    task = task_of("mmbench", data=str(table))
    prompts = prompts_of(task, tmp_path)
    found = figures(task, scored := score(task, prompts, ANSWERS))
    assert found.pop("vanilla") == pytest.approx(2 / 3) and found.pop("unparsable") == pytest.approx(1 / 7)
    assert found == pytest.approx(
        {
            "circular": 1 / 3,
            "l2_category.perception": 0.5,
            "l2_category.reasoning": 0,
            "category.colour": 1,
            "category.object": 0,
            "category.cause": 0,
        }
    )
    assert [one.group for one in scored] == ["0", "0", "0", "1", "1", "2", "2"]
    assert task.reference(prompts["1000000"]) == "A. blue"


def test_a_question_lacks_its_figure_where_one_order_lacks_an_answer(table, tmp_path):
    task = task_of("mmbench", data=str(table))
    prompts = prompts_of(task, tmp_path)
    part = score(task, prompts, {key: ANSWERS[key] for key in ("0", "1000000", "1", "1000001")})
    assert part[0].missing == ("circular", "l2_category.perception", "category.colour")
    assert part[0].values == {"unparsable": 0, "vanilla": 1} and part[2].values["circular"] == 0
    answered = [Answered(prompts["1"], "A"), Answered(prompts["1000001"], "Failed to obtain answer via API.")]
    first, second = scored_by(task, answered)
    assert first.missing[0] == "circular" and "circular" not in first.values and second.failed


def test_turned_rows_of_the_data_are_taken_as_they_are(tmp_path):
    rows = [
        (*MMBENCH_ROWS[1], base64_picture(), "dev"),
        (1000001, "What is it?", "", "dog", "cat", "", "", "B", "object", "perception", "1", "dev"),
    ]
    task = task_of("mmbench", data=str(write_table(tmp_path / "dev.csv", rows)))
    prompts = prompts_of(task, tmp_path)
    assert list(prompts) == ["1", "1000001"] and prompts["1"].images == prompts["1000001"].images
    assert figures(task, score(task, prompts, {"1": "A", "1000001": "B"}))["circular"] == 1
    once = task_of("mmbench", data=str(tmp_path / "dev.csv"), circular=False)
    assert list(prompts_of(once, tmp_path)) == ["1"] and once.measures[0].name == "vanilla"
    found = figures(once, score(once, prompts_of(once, tmp_path), {"1": "cat"}))
    assert found == {"vanilla": 1, "unparsable": 0, "l2_category.perception": 1, "category.object": 1}


def test_sheets_go_out_and_come_back(table, tmp_path):
    task = task_of("mmbench", data=str(table))
    prompts = prompts_of(task, tmp_path)
    answers = {**ANSWERS, "1": "=1+1"}
    files = task.field_files("dpo", score(task, prompts, answers))
    assert sorted(files) == ["dpo_mmbench.csv", "dpo_mmbench.tsv", "dpo_mmbench.xlsx"]
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert {key: texts[0] for key, texts in task.read_answers(path).items()} == answers
    sheet = openpyxl.load_workbook(tmp_path / "dpo_mmbench.xlsx").active
    assert [cell.value for cell in sheet[2]][:8] == [
        0,
        "Which colour?",
        "Look at\nthe sky.",
        "red",
        "blue",
        "green",
        None,
        "B",
    ]
    assert sheet["H5"].data_type == "s"  # an answer is no formula


def test_llavas_answers_have_rounds(table, tmp_path):
    task = task_of("mmbench", data=str(table), rule="llava")
    records = [
        {"question_id": int(key) % 1000000, "round_id": int(key) // 1000000, "text": text}
        for key, text in ANSWERS.items()
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    answers = task.read_answers(path)
    assert {key: texts[0] for key, texts in answers.items()} == ANSWERS
    found = figures(task, score(task, prompts_of(task, tmp_path), answers))
    assert found["circular"] == 0  # "A. blue" is no letter to LLaVA's rule
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records, records[0]]))
    with pytest.raises(RecordError, match=r"answers\.jsonl:8: index 0 stands in line 1 already"):
        task.read_answers(path)


def test_without_labels_letters_are_read_and_nothing_is_scored(tmp_path):
    rows = [(*MMBENCH_ROWS[1][:7], "", "object", "", base64_picture(), "test")]
    task = task_of("mmbench", data=str(write_table(tmp_path / "test.tsv", rows)))
    scored = score(task, prompts_of(task, tmp_path), {"1": "A", "1000001": "?"})
    assert [one.values for one in scored] == [{"unparsable": 0}, {"unparsable": 1}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "D"}, "answer 'D' among the options A, B, C"),
        ({"index": "x"}, "index 'x' is no whole number"),
        ({"index": 1}, "index 1 stands in line 2 already"),
        ({"index": 1000007}, "index 1000007 is question 7 turned, which is not there"),
        ({"image": ""}, "image is missing"),
        ({"image": "?" * 100}, "not base64"),
    ],
)
def test_broken_tables_are_named(table, tmp_path, change, message):
    row = dict(zip(MMBENCH_HEAD, (*MMBENCH_ROWS[0], base64_picture(), "dev"), strict=True)) | change
    rows = [(*MMBENCH_ROWS[1], base64_picture(), "dev"), tuple(row.values())]
    path = write_table(tmp_path / "broken.tsv", rows)
    with pytest.raises(UserError, match=message):
        task_of("mmbench", data=str(path)).prompts(tmp_path)


def test_rows_of_another_split_are_left_out(table, tmp_path):
    assert prompts_of(task_of("mmbench", data=str(table), split="test"), tmp_path) == {}
