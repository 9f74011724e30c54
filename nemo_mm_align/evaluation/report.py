"""report.html: one self-contained page with everything that `results.json` holds and a few sample answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.evaluation import page, plots, steering_report, tables, wording
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import Interval
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.metrics import TEXT_SCORE
from nemo_mm_align.evaluation.results import BASE, Results, variant_of
from nemo_mm_align.evaluation.steering_report import SteeredSample
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.evaluation.tasks.rated import JUDGED, WORDS
from nemo_mm_align.reporting.page import render
from nemo_mm_align.reporting.tables import cells
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt

TITLE = "Aligning a vision-language model with attribute annotations"


def choose_samples(prompts: Sequence[Prompt], answers: Sequence[ScoredAnswer], count: int, seed: int) -> list[Prompt]:
    """Draw rated prompts at random, evenly over the sources that `answers` name: nobody picks the good ones."""
    generator = np.random.default_rng(seed)
    sources = {answer.prompt_id: answer.source for answer in answers if answer.ratings}
    by_source: dict[str, list[Prompt]] = {}
    for index in generator.permutation(len(prompts)):
        prompt = prompts[int(index)]
        if prompt.id in sources:
            by_source.setdefault(sources[prompt.id], []).append(prompt)
    chosen: list[Prompt] = []
    while len(chosen) < count and any(by_source.values()):
        chosen += [group.pop() for group in by_source.values() if group][: count - len(chosen)]
    return chosen


def write_report(
    path: str | Path,
    results: Results,
    schema: AttributeSchema,
    samples: Sequence[ReportSample] = (),
    steered: Sequence[SteeredSample] = (),
    cautions: Sequence[str] = (),
    title: str = TITLE,
) -> None:
    """Write the page in one go.

    Args:
        cautions: what a reader could take for success and is not, see `Task.cautions`.

    Raises:
        UserError: the image of a sample is missing or broken.
    """
    write_text(path, render(page.TEMPLATE, title, **_context(results, schema, samples, steered, cautions)))


def _context(
    results: Results,
    schema: AttributeSchema,
    samples: Sequence[ReportSample],
    steered: Sequence[SteeredSample],
    cautions: Sequence[str],
) -> dict[str, Any]:
    methods = results.methods
    has_base = BASE in methods and len(methods) > 1
    abouts = [measure.about for measure in (results.primary, *results.columns) if measure.about]
    return {
        "headline": wording.headline(results),
        "basis": wording.basis(results),
        "missing": wording.listing([wording.label_of(name) for name in results.missing_methods] or [""]),
        "notes": results.notes,
        "method_heads": [
            "Method",
            results.primary.label,
            *([f"{results.primary.name.replace('_', ' ').capitalize()} − base"] if has_base else []),
            *(measure.label for measure in results.columns),
        ],
        "method_rows": [tables.method_row(name, one, results, schema, has_base) for name, one in methods.items()],
        "abouts": abouts,
        "interval_basis": wording.interval_basis(results),
        "cautions": [*wording.failures(results), *cautions],
        "attribute_heads": ["Method", *schema.names],
        "attribute_rows": [tables.attribute_row(name, one, results, schema) for name, one in methods.items()],
        "taste": tables.taste(schema),
        **_plots(results, schema),
        "steering_heads": steering_report.HEADS,
        "steering_rows": list(steering_report.steering_rows(results)),
        "steered": [steering_report.steered_card(sample, schema) for sample in steered],
        "samples": [tables.sample_card(sample, list(methods), schema) for sample in samples],
        "sample_note": f"{len(samples)} held-out prompts, drawn at random with the seed of the run.",
        "training_rows": [tables.training_row(name, result) for name, result in methods.items() if result.training],
        "health": [
            tables.health_card(name, result, results)
            for name, result in methods.items()
            if result.training and result.training.health
        ],
        "layout_rows": [
            cells(stage, layout.world_size, layout.tensor, layout.pipeline, layout.data)
            for stage, layout in results.layouts.items()
        ],
        "fact_lists": tables.made_of(results),
    }


def _plots(results: Results, schema: AttributeSchema) -> dict[str, str | None]:
    methods = {name: result for name, result in results.methods.items() if not variant_of(name)[1]}
    labels = {name: wording.label_of(name) for name in methods}
    prefix = f"{JUDGED.name}."
    rated = {name: one for name, one in methods.items() if any(key.startswith(prefix) for key in one.measurements)}
    shares = {measure.name: _below_the_axis(measure) for measure in results.columns if measure.share}
    has_words = any(WORDS.name in one.measurements for one in methods.values())
    text = _text_bars(results)
    return {
        "shares_plot": plots.plot_shares(methods, shares, labels) if shares else None,
        "attributes_plot": plots.plot_attributes(rated, schema, labels) if rated else None,
        "lengths_plot": plots.plot_lengths(rated or methods, labels) if has_words else None,
        "steering_plot": steering_report.plot_steering(results, schema),
        "losses_plot": plots.plot_losses(methods, labels),
        "text_plot": plots.plot_text_ability(text) if text else None,
    }


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
