"""The table of all judged attributes against all asked ones, on the page and in Markdown."""

from nemo_mm_align.evaluation.cross_talk import cross_talk
from nemo_mm_align.evaluation.markdown import table
from nemo_mm_align.evaluation.results import CurvePoint, Results, SteeringResult
from nemo_mm_align.reporting.page import render
from nemo_mm_align.reporting.tables import Cell
from tests.unit.evaluation.judged import TASK


def results_of(**steering: dict[str, float]) -> Results:
    curve = [CurvePoint(asked=0, judged=0, count=1)]
    found = {
        name: SteeringResult(spearman=None, spearman_per_seed=[], curve=curve, matrix=matrix)
        for name, matrix in steering.items()
    }
    return Results(
        created="", seeds=[0], schema_name="s", task=TASK.name, measures=TASK.measures, prompts={}, methods={},
        steering_by_method={"steerlm": found},
    )  # fmt: skip


def test_rows_are_asked_columns_judged_and_the_attribute_itself_is_bold() -> None:
    (found,) = cross_talk(results_of(short={"short": 0.5, "right": -0.25}, right={"right": 1.0}))
    assert found["heads"][1:] == ["short", "right"]
    assert [[cell.value for cell in row] for row in found["rows"]] == [
        ["short", "+0.50", "-0.25"],
        ["right", "–", "+1.00"],
    ]
    assert [[cell.strong for cell in row] for row in found["rows"]] == [[False, True, False], [False, False, True]]
    assert "| short | **+0.50** | -0.25 |" in table(found["heads"], found["rows"])


def test_results_without_a_matrix_show_what_they_have() -> None:
    results = results_of(short={}, right={})
    of = results.steering_by_method["steerlm"]
    of["short"].cross_talk, of["right"].cross_talk = {"terse": 0.1}, {"terse": 0.2, "short": 0.3}
    (found,) = cross_talk(results)
    assert [[cell.value for cell in row] for row in found["rows"]] == [
        ["short", "+0.10", "–"],
        ["right", "+0.20", "+0.30"],
    ]
    of["right"].cross_talk = {"terse": 0.2}
    assert cross_talk(results) == [], "one attribute stands in the table of steering"


def test_a_bold_value_is_escaped_on_the_page() -> None:
    body = '{% extends "frame" %}{% from "parts" import table %}{% block body %}{{ table(["a"], rows) }}{% endblock %}'
    assert "<td><strong>&lt;1</strong></td>" in render(body, "t", rows=[[Cell("<1", strong=True)]])
