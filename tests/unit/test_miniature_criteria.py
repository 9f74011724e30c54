"""Whether a base is fit to be aligned: the arithmetic on hand-made answers, and what is said of the shipped one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from nemo_mm_align.miniature.criteria_counts import Measured, judge, measure, style_table
from nemo_mm_align.miniature.judged import JudgedAnswer
from nemo_mm_align.miniature.oracle import RULES


def image(kind: str, correct: int, style: tuple[int, int] = (0, 0), **more: Any) -> JudgedAnswer:
    """An answer to a question of the drawn charts; helpful and coherent as it is correct."""
    ratings = dict.fromkeys(("helpfulness", "correctness", "coherence"), float(correct))
    ratings |= {"verbosity": float(style[0]), "complexity": float(style[1])}
    if more.get("absent"):
        more["claims_presence"] = False
    return JudgedAnswer(prompt_id="p", kind="image", source="chart", question_type=kind, ratings=ratings, **more)


def text(right: bool) -> JudgedAnswer:
    return JudgedAnswer(prompt_id="t", kind="text", text_ok=right)


@pytest.fixture(scope="module")
def measured() -> Measured:
    greedy = [
        image("exist", 4, yes_no_correct=True),
        image("exist", 2, yes_no_correct=True, absent=True),
        image("exist", 0, yes_no_correct=False, absent=True),
        image("compare", 4, yes_no_correct=True),
        image("value", 1),
        text(True), text(False), text(True), text(True),
    ]  # fmt: skip
    drawn = {
        "a": [image("value", 4), image("value", 0), image("value", 0), image("value", 0)],
        "b": [image("value", 1)] * 4,
        "c": [text(True), text(False), text(False), text(False)],
    }
    train = {
        "d": [image("value", 4, style) for style in ((0, 1), (1, 1), (2, 1), (2, 4))],
        "e": [image("value", 4, style) for style in ((3, 0), (3, 1), (4, 2), (4, 2))],
        "f": [text(True)],
    }
    return measure(greedy, drawn, train, [text(True)] * 9 + [text(False)])


def test_greedy_answers_are_counted_by_question(measured: Measured) -> None:
    assert measured.yes_no == 0.75
    assert measured.yes_no_by == {"chart compare": 1, "chart exist absent": 0.5, "chart exist present": 1}
    assert measured.right_by == measured.correct_by == {
        "chart compare": 1, "chart exist absent": 0, "chart exist present": 1, "chart value present": 0,
    }  # fmt: skip
    assert measured.by_source == {"chart": 0.4}
    assert measured.score == pytest.approx(3 * (4 + 2 + 0 + 4 + 1) / 5)
    assert (measured.text_before, measured.text) == (0.9, 0.75)


def test_samples_are_counted_by_answer_and_by_prompt(measured: Measured) -> None:
    assert (measured.pass_1, measured.pass_4) == (1 / 8, 1 / 2)
    assert measured.sampled_score == 3 * (4 + 4) / 8
    assert measured.sampled_text == 0.25
    assert (measured.varied_verbosity, measured.varied_complexity) == (0.5, 0.5)
    assert measured.styles == [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 1], [1, 1, 0, 0, 0], [0, 0, 2, 0, 0]]
    assert style_table([]) == [[0] * 5] * 5


def test_a_criterion_is_met_from_its_bound_on(measured: Measured) -> None:
    assert list(judge(measured).values()) == [True, True, True, True, False]  # a score of 6.6 is less than 8
    just = {"pass_4": 0.275, "text_before": 0.91, "text": 0.81, "score": 10.0}
    assert all(judge(measured.model_copy(update=just)).values())
    worse = {"yes_no": 0.7499, "pass_4": 0.2749, "text_before": None, "text": 0.7499, "score": 10.01}
    assert not any(judge(measured.model_copy(update=worse)).values())


def test_the_shipped_base_is_the_one_that_was_measured(repository: Path) -> None:
    folder = repository / "nemo_mm_align/miniature/base"
    written = json.loads((folder / "criteria.json").read_text(encoding="utf-8"))
    assert written["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert written["rules"] == RULES and written["sampling"]["split"] == "dev"
    assert judge(Measured.model_validate(written["measured"])) == written["met"]
    assert all(written["met"].values())
