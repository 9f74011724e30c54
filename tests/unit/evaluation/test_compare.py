import json

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.compare import compare_runs
from nemo_mm_align.evaluation.comparison import Comparison
from tests.unit.evaluation.several_tasks import METHODS, dialogue, dialogues, evaluate
from tests.unit.evaluation.test_suite import page_of


@pytest.fixture
def runs(tmp_path):
    return [evaluate(tmp_path / name, method) for name, method in (("old", "base"), ("new", "dpo"))]


def compared(folders, out) -> Comparison:
    compare_runs(folders, out)
    return Comparison.model_validate_json((out / "comparison.json").read_text())


def test_two_runs_by_hand(tmp_path, runs):
    found = compared(runs, tmp_path / "out")
    task = found.tasks["dialogues"]
    by_figure = {one.figure: one for one in task.differences}
    assert {name: one.value for name, one in by_figure.items()} == {
        "score": 0.25,
        "category.writing": 1.5,
        "category.math": -1,
    }
    assert by_figure["score"].p_corrected == by_figure["score"].p_value and by_figure["score"].comparisons == 1
    assert by_figure["category.math"].comparisons == 2
    assert by_figure["score"].length_controlled == 0.25, "all answers are as long as the other's"
    (change,) = task.changes
    assert (change.method, change.against, change.better, change.worse, change.equal) == ("new", "old", 20, 20, 0)
    f1 = next(one for one in found.tasks["yes_no"].differences if one.figure == "f1")
    assert f1.value == pytest.approx(1 - 48 / 54), "the task's own statistic"
    assert found.tasks["yes_no"].resampling.groups == 10


def test_what_lost_is_named(tmp_path, runs):
    compare_runs(runs[::-1], tmp_path / "out")
    page = page_of(tmp_path / "out")
    assert "old is worse than new: Score (of 10) -0.25" not in page.text
    assert "old is not separated from new: Score (of 10) -0.25 [" in page.text
    assert (
        "writing (By category) fell by 1.50 [-1.50, -1.50] from new to old; p < 0.001, < 0.001 corrected" in page.text
    )
    assert "old against new, Score (of 10): 20 prompts are worse, 20 better, 0 alike." in page.text
    assert "old against new, Accuracy: 6 went from right to wrong, 0 the other way, 54 are alike." in page.text
    assert "d01" in page.folded and "d00" not in page.folded
    text = (tmp_path / "out/report.md").read_text()
    assert "Lost most: d01 (6.50 to 5.00), d03 (8.50 to 7.00)" in text and "| old − new | -0.25<br>" in text


def test_all_pairs_are_corrected_for(tmp_path):
    folders = [evaluate(tmp_path / name, name) for name in ("base", "dpo")] + [evaluate(tmp_path / "third", "base")]
    found = compared(folders, tmp_path / "out").tasks["dialogues"]
    scores = [one for one in found.differences if one.figure == "score"]
    assert [(one.method, one.against) for one in scores] == [("dpo", "base"), ("third", "base"), ("third", "dpo")]
    assert {one.comparisons for one in scores} == {3} and scores[1].p_value == 1
    assert "corrected for 3 comparisons" in page_of(tmp_path / "out").text


def test_methods_of_one_folder_are_told_apart(tmp_path, runs):
    both = evaluate(tmp_path / "both", "base", "dpo")
    found = compared([runs[0], both], tmp_path / "out").tasks["dialogues"]
    assert list(found.methods) == ["old", "both/base", "both/dpo"]


def test_what_failed_too_often_is_not_compared(tmp_path, runs):
    found = compared([runs[0], evaluate(tmp_path / "lossy", "steerlm")], tmp_path / "out").tasks["dialogues"]
    assert found.differences == [] and found.methods["lossy"]["score"].failed == 4
    page = page_of(tmp_path / "out")
    assert "lossy and old are not compared: too many answers failed." in page.text and "10 % failed" in page.text


def test_other_prompts_and_other_tasks_are_refused_by_name(tmp_path, runs):
    shifted = [dialogue(number, 5.0) for number in range(2, 42)]
    other = evaluate(tmp_path / "other", "dpo", dpo=shifted)
    with pytest.raises(UserError, match=r"4 differ: d00 \(only old\), d01 \(only old\), d40 \(only other\), d41"):
        compare_runs([runs[0], other], tmp_path / "out")
    text = json.loads((runs[1] / "results.json").read_text())
    text["tasks"] = {"pope": text["tasks"]["yes_no"]}
    (runs[1] / "results.json").write_text(json.dumps(text))
    (runs[1] / "judged/yes_no").rename(runs[1] / "judged/pope")
    with pytest.raises(UserError, match="no task that all have: old has dialogues, yes_no; new has pope"):
        compare_runs(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_task_that_one_lacks_is_said(tmp_path, runs):
    text = json.loads((runs[1] / "results.json").read_text())
    del text["tasks"]["yes_no"]
    (runs[1] / "results.json").write_text(json.dumps(text))
    assert compared(runs, tmp_path / "out").notes == ["yes_no is not compared: new did not evaluate it."]


def test_other_judges_are_pointed_out(tmp_path, runs):
    other = evaluate(tmp_path / "other", "dpo", judge="gemini")
    (note,) = compared([runs[0], other], tmp_path / "out").tasks["dialogues"].notes
    assert note.startswith("Not the same judges (old: openai gpt-4o-2024-11-20; other: gemini gpt-4o")


def test_a_statistic_whose_task_is_gone_is_left_out_and_named(tmp_path, runs):
    for folder in runs:
        path = folder / "results.json"
        path.write_text(path.read_text().replace("several_tasks.YesNo", "several_tasks.Gone"))
    found = compared(runs, tmp_path / "out").tasks["yes_no"]
    assert {one.figure for one in found.differences} == {"accuracy"}
    assert found.notes[0].startswith(
        "Not compared, since the task cannot be built from what the results say: F1. task._target_"
    )


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["old"], "at least two evaluation folders"),
        (["old", "old"], "named twice"),
        (["old", "none"], r"none/results\.json: no such file"),
    ],
)
def test_folders_that_cannot_be_compared(tmp_path, runs, folders, message):
    with pytest.raises(UserError, match=message):
        compare_runs([tmp_path / name for name in folders], tmp_path / "out")


def test_a_method_without_its_answers_is_named(tmp_path, runs):
    (runs[1] / "judged/dialogues/dpo.jsonl").unlink()
    with pytest.raises(UserError, match=r"judged/dialogues/dpo\.jsonl: no such file"):
        compare_runs(runs, tmp_path / "out")


def test_equal_answers_are_not_separated(tmp_path):
    folders = [evaluate(tmp_path / name, "base") for name in ("a", "b")]
    found = compared(folders, tmp_path / "out").tasks["dialogues"]
    assert {one.value for one in found.differences} == {0} and {one.p_value for one in found.differences} == {1}
    assert METHODS["dialogues"]["base"] == dialogues({})


def test_no_evaluation_is_written_over(tmp_path, runs):
    before = (runs[0] / "report.html").read_bytes()
    with pytest.raises(UserError, match="is one of the evaluations, whose report would be lost"):
        compare_runs(runs, runs[0])
    assert (runs[0] / "report.html").read_bytes() == before
