"""One task's section of a report, as plain values for the templates of `page` and `markdown`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nemo_mm_align.evaluation import findings, length_plot, plots, steering_report, tables, wording
from nemo_mm_align.evaluation.breakdowns import breakdowns
from nemo_mm_align.evaluation.cross_talk import ABOUT, TITLE, cross_talk
from nemo_mm_align.evaluation.intervals import Interval
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.metrics import TEXT_SCORE
from nemo_mm_align.evaluation.results import BASE, Results, variant_of
from nemo_mm_align.evaluation.sample_cards import sample_card
from nemo_mm_align.evaluation.task_report import TaskReport
from nemo_mm_align.evaluation.tasks.rated import JUDGED, WORDS
from nemo_mm_align.reporting.tables import Cell, cells
from nemo_mm_align.schema.attributes import AttributeSchema


def section_of(report: TaskReport) -> dict[str, Any]:
    """Return everything that a task's section shows.

    Raises:
        UserError: the image of a sample is missing or broken.
    """
    results, schema = report.results, report.schema
    methods = results.methods
    has_base = BASE in methods and len(methods) > 1
    return {
        "headline": wording.headline(results),
        "basis": wording.basis(results),
        "notes": results.notes,
        "method_heads": tables.method_heads(results, has_base),
        "method_rows": [tables.method_row(name, one, results, schema, has_base) for name, one in methods.items()],
        "abouts": [measure.about for measure in (results.primary, *results.columns) if measure.about],
        "interval_basis": wording.interval_basis(results),
        "tests_basis": " ".join([findings.length_basis(results), findings.tests_basis(results)]).strip(),
        "cautions": [*findings.failures(results), *report.cautions],
        "regressions": findings.regressions(results),
        "regression_note": findings.further_note(findings.further_falls(results), findings.regressions(results)),
        "breakdowns": breakdowns(results),
        "attribute_heads": ["Method", *schema.names],
        "attribute_rows": [tables.attribute_row(name, one, results, schema) for name, one in methods.items()],
        "taste": tables.taste(schema),
        **_plots(report),
        **_steering(report),
        "samples": [sample_card(one, list(methods), schema, results.measures) for one in report.samples],
        "sample_note": f"{len(report.samples)} held-out prompts, drawn at random with the seed of the run.",
        **_made(results),
    }


def _steering(report: TaskReport) -> dict[str, Any]:
    return {
        "steering_heads": steering_report.HEADS,
        "steering_rows": list(steering_report.steering_rows(report.results)),
        "cross_talk": cross_talk(report.results),
        "cross_talk_title": TITLE,
        "cross_talk_about": ABOUT,
        "steered": [steering_report.steered_card(sample, report.schema) for sample in report.steered],
    }


def _made(results: Results) -> dict[str, Any]:
    methods = results.methods
    trained = {name: result for name, result in methods.items() if result.training}
    return {
        "training_rows": [tables.training_row(name, result) for name, result in trained.items()],
        "health": [
            tables.health_card(name, result, results)
            for name, result in trained.items()
            if result.training and result.training.health
        ],
        "layout_rows": list(_layout_rows(results)),
        "fact_lists": tables.made_of(results),
    }


def _layout_rows(results: Results) -> Iterator[list[Cell]]:
    for stage, layout in results.layouts.items():
        yield cells(stage, layout.world_size, layout.tensor, layout.pipeline, layout.data)


def _plots(report: TaskReport) -> dict[str, str | None]:
    results, schema = report.results, report.schema
    methods = {name: result for name, result in results.methods.items() if not variant_of(name)[1]}
    labels = {name: wording.label_of(name) for name in methods}
    prefix = f"{JUDGED.name}."
    rated = {name: one for name, one in methods.items() if any(key.startswith(prefix) for key in one.measurements)}
    shares = {measure.name: _below_the_axis(measure) for measure in results.columns if measure.share}
    has_words = any(WORDS.name in one.measurements for one in methods.values())
    text = _text_bars(results)
    return {
        "shares_plot": plots.plot_shares(methods, shares, labels) if shares else None,
        "attributes_plot": _attributes(rated, schema, labels),
        "lengths_plot": plots.plot_lengths(rated or methods, labels) if has_words else None,
        "length_score_plot": length_plot.plot_score_against_length(report.scored, results.primary, labels),
        "steering_plot": steering_report.plot_steering(results, schema),
        "losses_plot": plots.plot_losses(methods, labels),
        "text_plot": plots.plot_text_ability(text) if text else None,
    }


def _attributes(rated: dict[str, Any], schema: AttributeSchema, labels: plots.Labels) -> str | None:
    return plots.plot_attributes(rated, schema, labels) if rated else None


def _below_the_axis(measure: Measure) -> str:
    return measure.label if measure.better != "lower" else f"{measure.label}\n(lower is better)"


def _text_bars(results: Results) -> dict[str, tuple[float, Interval | None]]:
    ability = results.text_ability
    bars = {}
    if ability.before_visual_tuning is not None:
        value, interval = ability.before_visual_tuning, ability.intervals.get("before_visual_tuning")
        bars["before visual tuning"] = (value, interval)
    for name, result in results.methods.items():
        if found := result.measurements.get(TEXT_SCORE):
            label = "after it (base)" if name == BASE and bars else wording.label_of(name)
            bars[label] = (found.value, found.interval)
    return bars
