"""The page of the report, as a template for `reporting.page`, and what fills it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from nemo_mm_align.evaluation.attribute_report.measures import SCORE, Told
from nemo_mm_align.evaluation.attribute_report.plots import plot_calibration
from nemo_mm_align.evaluation.attribute_report.verdicts import CEILING, MODEL, PROBE, SHUFFLED
from nemo_mm_align.reporting.agreement import Estimate
from nemo_mm_align.reporting.page import render
from nemo_mm_align.reporting.tables import Cell, cells, fact_lists, flat, measured

if TYPE_CHECKING:
    from nemo_mm_align.evaluation.attribute_report.stage import Report

TEMPLATE = """\
{% extends "frame" %}
{% from "parts" import facts, figure, table %}
{% block body %}
<p class="headline">{{ headline }}</p>
<p class="soft">{{ basis }}</p>
{% if missing %}<p class="notice">{{ missing }}</p>{% endif %}

<h2>What the numbers say</h2>
{% for sentences in verdicts %}<ul>{% for sentence in sentences %}<li>{{ sentence }}</li>{% endfor %}</ul>
{% endfor %}

{% for title, text, heads, rows in tables %}<h2>{{ title }}</h2>
<p>{{ text }}</p>
{{ table(heads, rows) }}
{% endfor %}

<h2>Calibration</h2>
<p>Answers in bins of equal size by told value. The line through judged over told values has slope 1 and intercept 0 where the
model is calibrated; the expected error is the mean distance of a bin from the diagonal, in the attribute's unit.</p>
{{ figure(calibration, "Judged over told values, a panel per attribute", "Dashed: perfect calibration.") }}
{{ table(calibration_heads, calibration_rows) }}

<h2>How this was made</h2>
{{ facts(fact_lists) }}
{% endblock %}
"""

COLUMNS = (MODEL, CEILING, SHUFFLED, PROBE)


def render_report(report: Report) -> str:
    """Return the page."""
    schema = report.settings.attribute_schema
    calibrations = {name: columns[MODEL].calibration for name, columns in report.columns.items() if name != SCORE}
    return render(
        TEMPLATE,
        f"Told attributes: {report.settings.predicted.name}",
        headline=f"{len(report.answers.keys):,} answers to {report.answers.prompts:,} prompts, told and judged.",
        basis="In brackets: 95 % intervals, prompts resampled. A dash: not defined, since one of the two is constant.",
        missing=_missing(report),
        verdicts=list(report.sentences.values()),
        tables=list(_tables(report.columns)),
        calibration=plot_calibration(calibrations, schema),
        calibration_heads=["Attribute", "Slope", "Intercept", "Expected error"],
        calibration_rows=[_calibration_row(name, columns[MODEL]) for name, columns in report.columns.items()],
        fact_lists=fact_lists(_facts(report)),
    )


def _missing(report: Report) -> str:
    left_out = report.answers.left_out
    if not left_out:
        return ""
    return f"{left_out:,} judged answers are left out: another file does not rate them."


def _tables(columns: Mapping[str, Mapping[str, Told]]) -> Iterator[tuple[str, str, list[str], list[list[Cell]]]]:
    shown = [name for name in COLUMNS if name in next(iter(columns.values()))]
    heads = ["Attribute", *(name.capitalize() for name in shown)]
    pairs = "Share of pairs of answers to one prompt that are ordered as the judge orders them; pairs that he holds for equal "
    pairs += "are left out, pairs that are told equal count one half. 0.5 is chance."
    rows = [_pair_row(name, found, shown) for name, found in columns.items()]
    yield "Pair accuracy", pairs, [*heads, "Pairs", "Judged equal"], rows
    for key, title, text in (
        ("spearman", "Spearman", "Rank correlation of told and judged values, over all answers."),
        ("pearson", "Pearson", "Linear correlation of told and judged values, over all answers."),
        ("mad", "Mean absolute error", "Mean distance of told and judged values, in the attribute's unit."),
    ):
        rows = [_row(name, found, shown, key) for name, found in columns.items()]
        yield title, text, [*heads, "Answers"], rows


def _pair_row(name: str, found: Mapping[str, Told], shown: list[str]) -> list[Cell]:
    pairs = found[MODEL].pairs
    values = [_cell(found[column].pairs.accuracy) for column in shown]
    return [*cells(name), *values, *cells(f"{pairs.pairs:,}", f"{pairs.undecided:,}")]


def _row(name: str, found: Mapping[str, Told], shown: list[str], key: str) -> list[Cell]:
    values = [_cell(found[column].measures[key]) for column in shown]
    return [*cells(name), *values, *cells(f"{found[MODEL].answers:,}")]


def _calibration_row(name: str, told: Told) -> list[Cell]:
    found = told.calibration
    return [*cells(name), *map(_cell, (found.slope, found.intercept, found.error))]


def _cell(estimate: Estimate) -> Cell:
    return measured(estimate.value, estimate.interval)


def _facts(report: Report) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    settings = report.settings.model_dump(mode="json", exclude={"attribute_schema"})
    yield "Files and settings", list(flat(settings))
    yield "Weights of the sum", [(name, f"{weight:g}") for name, weight in report.weights.items()]
