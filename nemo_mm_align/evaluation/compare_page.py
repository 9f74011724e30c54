"""The page and the Markdown of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from nemo_mm_align.evaluation import findings, markdown, tables, wording
from nemo_mm_align.evaluation.comparison import Changes, ComparedTask, Comparison, Difference
from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.measures import Measure, measure_of, shown_of
from nemo_mm_align.evaluation.permutation import comparisons
from nemo_mm_align.reporting.page import render
from nemo_mm_align.reporting.tables import Cell, bracket, measured

SIGNIFICANT = 0.05
TEMPLATE = """\
{% extends "frame" %}
{% from "parts" import facts, table %}
{% block body %}
<p class="soft">{{ basis }}</p>
{% for note in notes %}<p class="notice">{{ note }}</p>{% endfor %}
{% for task in tasks %}<section class="task"><h2>{{ task.name }}</h2>
{% for note in task.notes %}<p class="notice">{{ note }}</p>{% endfor %}
{% for sentence in task.verdicts %}<p class="headline">{{ sentence }}</p>
{% endfor %}
{% for sentence in task.regressions %}<p class="notice"><strong class="wrong">Fell.</strong> {{ sentence }}</p>
{% endfor %}
{% for one in task.tables %}<h3>{{ one.label }}</h3>
{{ table(one.heads, one.rows) }}
{% if one.about %}<p class="soft">{{ one.about }}</p>{% endif %}

{% endfor %}
{% if task.changes %}<h3>Prompt by prompt</h3>{% endif %}

{% for one in task.changes %}<p>{{ one.text }}</p>
{% if one.worst %}<details><summary>{{ one.summary }}</summary>
<div class="samples">{% for change in one.worst %}<article class="sample wide">
<p class="question">{{ change.prompt }}</p>
<div class="answers"><section><p><strong>{{ one.against }}</strong>: {{ change.before }}</p>
<p class="said" tabindex="0">{{ change.answer_before }}</p></section>
<section><p><strong>{{ one.method }}</strong>: {{ change.after }}</p>
<p class="said" tabindex="0">{{ change.answer_after }}</p></section></div></article>{% endfor %}</div></details>{% endif %}
{% endfor %}</section>
{% endfor %}
<h2>What was compared</h2>
{{ facts(fact_lists) }}
{% endblock %}
"""


def comparison_files(comparison: Comparison) -> tuple[str, str]:
    """Return the page and the Markdown."""
    title = f"Comparison: {wording.listing(list(comparison.folders))}"
    values = {
        "basis": f"{wording.listing([*comparison.tasks])}; {comparison.created[:16].replace('T', ' ')}.",
        "notes": comparison.notes,
        "tasks": [_section(name, task) for name, task in comparison.tasks.items()],
        "fact_lists": [("Folders", list(comparison.folders.items()))],
    }
    return render(TEMPLATE, title, **values), _markdown(title, values)


def _section(name: str, task: ComparedTask) -> dict[str, Any]:
    return {
        "name": name,
        "notes": task.notes,
        "verdicts": verdicts(task),
        "regressions": list(falls(task)),
        "tables": [_methods(task), _pairs(task), *_parts(task)],
        "changes": [
            _change(one, measure) for one in task.changes if (measure := measure_of(one.figure, task.measures))
        ],
    }


def verdicts(task: ComparedTask) -> list[str]:
    """Say of each pair whether the task's first measure tells them apart."""
    first, said = task.measures[0], []
    for one in _of(task, first.name):
        difference = f"{one.value:+.{first.digits}f} {_bracket(one, first)}"
        p_value = one.p_corrected if one.p_corrected is not None else 1.0
        verb = "is not separated from"
        if p_value < SIGNIFICANT and first.better is not None:
            verb = "is better than" if (one.value > 0) == (first.better == "higher") else "is worse than"
        said.append(f"{one.method} {verb} {one.against}: {first.label} {difference}, {_p(one)}.")
    compared = {(one.method, one.against) for one in _of(task, first.name)}
    for change in task.changes:
        if (change.method, change.against) not in compared:
            said.append(f"{change.method} and {change.against} are not compared: too many answers failed.")
    return said


def falls(task: ComparedTask) -> Iterator[str]:
    """Say which other figures are worse by more than their interval."""
    for one in task.differences:
        measure = measure_of(one.figure, task.measures)
        if measure is None or measure.better is None or measure is task.measures[0] or one.interval is None:
            continue
        worse = (one.value < 0) == (measure.better == "higher")
        if worse and one.interval.excludes_zero:
            verb = "fell" if one.value < 0 else "rose"
            label = _label(measure, one.figure)
            yield (
                f"{label} {verb} by {abs(one.value):.{measure.digits}f} {_bracket(one, measure)} from {one.against} to "
                f"{one.method}; {_p(one)}."
            )


def _of(task: ComparedTask, figure: str) -> list[Difference]:
    return [one for one in task.differences if one.figure == figure]


def _label(measure: Measure, figure: str) -> str:
    part = figure.partition(".")[2]
    return f"{part} ({measure.label})" if part else measure.label


def _bracket(one: Difference, measure: Measure) -> str:
    return bracket(bounds_of(one.interval), f"+.{measure.digits}f")


def _p(one: Difference) -> str:
    if one.p_value is None or one.p_corrected is None or one.comparisons is None:
        return "no p-value"
    raw, corrected = findings.p_text(one.p_value), findings.p_text(one.p_corrected)
    return f"p {raw}, {corrected} {comparisons(one.comparisons)}"


def _columns(task: ComparedTask) -> list[Measure]:
    return shown_of(task.measures, task.methods.values())


def _methods(task: ComparedTask) -> dict[str, Any]:
    columns, found = _columns(task), task.resampling
    rows = [
        [Cell(name), *(tables.compared_cell(of.get(measure.name), measure.digits) for measure in columns)]
        for name, of in task.methods.items()
    ]
    about = (
        f"{task.prompts:,} prompts; in brackets 95 % intervals of {found.resamples:,} resamples of {found.groups:,} "
        "groups of prompts. What is missing in more than 5 % of the answers is marked, and not compared."
    )
    return {"label": "Methods", "heads": ["Method", *(one.label for one in columns)], "rows": rows, "about": about}


def _pairs(task: ComparedTask) -> dict[str, Any]:
    columns = _columns(task)
    by_pair: dict[tuple[str, str], dict[str, Difference]] = {(one.method, one.against): {} for one in task.changes}
    for one in task.differences:
        by_pair[one.method, one.against][one.figure] = one
    rows = [
        [Cell(f"{pair[0]} − {pair[1]}"), *(_difference(of.get(measure.name), measure) for measure in columns)]
        for pair, of in by_pair.items()
    ]
    number = next((one.comparisons for one in _of(task, task.measures[0].name) if one.comparisons), 0)
    about = (
        "Over the same prompts. p: how often chance alone would part two methods as far (means: "
        f"{task.resampling.permutations:,} random sign flips or, of few groups, all; other figures: from the resamples); beside "
        f"it {comparisons(number)} of the same measure (Holm)."
    )
    return {"label": "Differences", "heads": ["", *(one.label for one in columns)], "rows": rows, "about": about}


def _difference(one: Difference | None, measure: Measure) -> Cell:
    if one is None:
        return Cell("–")
    cell = measured(one.value, bounds_of(one.interval), f"+.{measure.digits}f")
    if one.p_value is None or one.p_corrected is None:
        return cell
    more = [f"p {findings.p_text(one.p_value)}, corrected {findings.p_text(one.p_corrected)}"]
    if one.length_controlled is not None:
        bounds = bounds_of(one.length_controlled_interval)
        form = f"+.{measure.digits}f"
        more.append(f"at equal length {one.length_controlled:{form}} {bracket(bounds, form)}".strip())
    return Cell(cell.value, cell.small, more=tuple(more))


def _parts(task: ComparedTask) -> Iterator[dict[str, Any]]:
    """Of each grouped measure a table: its parts by pairs."""
    pairs = [(one.method, one.against) for one in task.changes]
    for measure in (one for one in task.measures if one.grouped):
        found = {(one.figure, one.method, one.against): one for one in task.differences}
        figures = sorted({one.figure for one in task.differences if one.figure.startswith(f"{measure.name}.")})
        rows = [
            [Cell(figure.partition(".")[2]), *(_difference(found.get((figure, *pair)), measure) for pair in pairs)]
            for figure in figures
        ]
        if rows:
            heads = ["", *(f"{method} − {against}" for method, against in pairs)]
            yield {"label": measure.label, "heads": heads, "rows": rows, "about": measure.about}


def _change(one: Changes, measure: Measure) -> dict[str, Any]:
    pair = f"{one.method} against {one.against}"
    text = f"{pair}, {measure.label}: {one.worse} prompts are worse, {one.better} better, {one.equal} alike."
    if measure.share:
        ends = "right to wrong" if measure.better == "higher" else "0 to 1"
        text = (
            f"{pair}, {measure.label}: {one.worse} went from {ends}, {one.better} the other way, {one.equal} are alike."
        )
    form = f".{measure.digits}f"
    return {
        "text": text,
        "method": one.method,
        "against": one.against,
        "summary": f"{len(one.worst)} of those that lost most",
        "worst": [
            {
                "prompt": change.prompt,
                "before": format(change.before, form),
                "after": format(change.after, form),
                "answer_before": change.answer_before or "(empty)",
                "answer_after": change.answer_after or "(empty)",
            }
            for change in one.worst
        ],
    }


def _markdown(title: str, values: dict[str, Any]) -> str:
    parts = [f"# {markdown.escape(title)}", markdown.escape(values["basis"])]
    parts += [f"> {markdown.escape(note)}" for note in values["notes"]]
    for task in values["tasks"]:
        parts += [f"## {markdown.escape(task['name'])}", *(f"> {markdown.escape(note)}" for note in task["notes"])]
        parts += [markdown.escape(text) for text in (*task["verdicts"], *task["regressions"])]
        for one in task["tables"]:
            parts += [f"### {markdown.escape(one['label'])}", markdown.table(one["heads"], one["rows"])]
            parts += [markdown.escape(one["about"])]
        parts += ["### Prompt by prompt" if task["changes"] else "", *_changes(task["changes"])]
    return markdown.join([*parts, "## What was compared", *markdown.fact_parts(values["fact_lists"], 3)])


def _changes(changes: Iterable[dict[str, Any]]) -> Iterator[str]:
    for one in changes:
        named = ", ".join(f"{change['prompt']} ({change['before']} to {change['after']})" for change in one["worst"])
        yield markdown.escape(one["text"] + (f" Lost most: {named}." if named else ""))
