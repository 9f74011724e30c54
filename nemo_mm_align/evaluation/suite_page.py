"""The page and the Markdown of several tasks: overview, regressions, cost, then each task's section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.evaluation import markdown, overview, wording
from nemo_mm_align.evaluation.cost_table import COST_HEADS, cost_rows
from nemo_mm_align.evaluation.page import MACROS
from nemo_mm_align.evaluation.section import section_of
from nemo_mm_align.evaluation.task_report import TaskReport
from nemo_mm_align.reporting.page import render
from nemo_mm_align.reporting.tables import Fact

_SHARED = ("Command", "Versions")
"""Facts that all tasks of one run have in common."""

TEMPLATE = (
    """\
{% extends "frame" %}
"""
    + MACROS
    + """\
{% block body %}
<p class="soft">{{ basis }}</p>
{% for sentence in regressions %}<p class="notice"><strong class="wrong">Regression.</strong> {{ sentence }}</p>
{% endfor %}
{% if regression_note %}<p class="soft">{{ regression_note }}</p>{% endif %}

<h2 id="overview">Methods by tasks</h2>
{{ table(overview_heads, overview_rows) }}
<p class="soft">{{ overview_note }}</p>

<nav aria-label="Contents"><h2>Contents</h2>
<ul>{% for task in tasks %}<li><a href="#task-{{ task.name }}">{{ task.name }}</a>{% if task.section.headline %}:{% endif %}
{%- for sentence in task.section.headline %} {{ sentence }}{% endfor %}</li>
{% endfor %}{% if cost_rows %}<li><a href="#cost">What judging cost</a></li>{% endif %}
{% if shared %}<li><a href="#reproduction">Reproduction</a></li>{% endif %}</ul></nav>

{% for task in tasks %}<section class="task" id="task-{{ task.name }}"><h2>{{ task.name }}</h2>
{{ section(task.section, 3) }}
<p><a href="#overview">Back to the overview</a></p></section>
{% endfor %}
<div id="cost">{{ costs(cost_heads, cost_rows, 2) }}</div>
{% if shared %}<h2 id="reproduction">Reproduction</h2>
<p class="soft">What all tasks have in common; what each was made of stands at the end of its section.</p>
{{ facts(shared) }}{% endif %}
{% endblock %}
"""
)


def suite_files(reports: Mapping[str, TaskReport], created: str) -> tuple[str, str]:
    """Return the page and the Markdown.

    Raises:
        UserError: the image of a sample is missing or broken.
    """
    values = _values(reports, created)
    title = f"Evaluation: {wording.listing(list(reports))}"
    return render(TEMPLATE, title, **values), _markdown(title, values)


def _values(reports: Mapping[str, TaskReport], created: str) -> dict[str, Any]:
    tasks = {name: report.results for name, report in reports.items()}
    methods = [wording.label_of(name) for name in overview.methods_of(tasks)]
    sections = {name: section_of(report) for name, report in reports.items()}
    shared = _take_shared(sections)
    return {
        "basis": f"{wording.listing(methods)} on {len(tasks)} tasks; {created[:16].replace('T', ' ')}.",
        "regressions": overview.regressions(tasks),
        "regression_note": overview.regression_note(tasks),
        "overview_heads": overview.overview_heads(tasks),
        "overview_rows": overview.overview_rows(tasks),
        "overview_note": overview.overview_note(tasks),
        "tasks": [
            {"name": name, "section": {**section, "regressions": [], "regression_note": ""}}
            for name, section in sections.items()
        ],
        "cost_heads": COST_HEADS,
        "cost_rows": cost_rows(tasks),
        "shared": shared,
    }


def _take_shared(sections: Mapping[str, dict[str, Any]]) -> list[tuple[str, list[Fact]]]:
    """Take what every section says alike out of them: it is said once."""
    first = next(iter(sections.values()))["fact_lists"]
    alike = [
        one for one in first if one[0] in _SHARED and all(one in other["fact_lists"] for other in sections.values())
    ]
    for section in sections.values():
        section["fact_lists"] = [one for one in section["fact_lists"] if one not in alike]
    return alike


def _markdown(title: str, values: Mapping[str, Any]) -> str:
    parts = [f"# {markdown.escape(title)}", markdown.escape(values["basis"])]
    parts += [f"**Regression.** {markdown.escape(text)}" for text in values["regressions"]]
    parts += [markdown.escape(values["regression_note"])] if values["regression_note"] else []
    parts += ["## Methods by tasks"]
    parts += [
        markdown.table(values["overview_heads"], values["overview_rows"]),
        markdown.escape(values["overview_note"]),
    ]
    for task in values["tasks"]:
        parts += [f"## {markdown.escape(task['name'])}", *markdown.section_parts(task["section"], 3)]
    parts += markdown.cost_parts(values["cost_rows"], 2)
    if values["shared"]:
        parts += ["## Reproduction", *markdown.fact_parts(values["shared"], 3)]
    return markdown.join(parts)
