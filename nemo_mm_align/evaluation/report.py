"""report.html: one self-contained page with everything that `results.json` holds and a few sample answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.evaluation import markdown, page, wording
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.cost_table import COST_HEADS, cost_rows
from nemo_mm_align.evaluation.results import Results
from nemo_mm_align.evaluation.section import section_of
from nemo_mm_align.evaluation.steering_report import SteeredSample
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.evaluation.task_report import TaskReport
from nemo_mm_align.reporting.page import render
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt

TITLE = "Aligning a vision-language model with attribute annotations"


def choose_samples(prompts: Sequence[Prompt], answers: Sequence[ScoredAnswer], count: int, seed: int) -> list[Prompt]:
    """Draw rated prompts at random, evenly over the sources that `answers` name: nobody picks the good ones.

    Where none is rated, those with values are drawn from.
    """
    generator = np.random.default_rng(seed)
    rated = any(answer.ratings for answer in answers)
    sources = {answer.prompt_id: answer.source for answer in answers if (answer.ratings if rated else answer.values)}
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
    scored: Mapping[str, Sequence[ScoredAnswer]] | None = None,
) -> None:
    """Write the page, and its tables in Markdown beside it, each in one go.

    Args:
        cautions: what a reader could take for success and is not, see `Task.cautions`.
        scored: all answers by method, for the plot of score against length; without them there is none.

    Raises:
        UserError: the image of a sample is missing or broken.
    """
    report = TaskReport(results, schema, samples, steered, cautions, scored or {})
    section, costs = section_of(report), cost_rows({results.task: results})
    missing = wording.listing([wording.label_of(name) for name in results.missing_methods] or [""])
    html = render(page.TEMPLATE, title, section_values=section, missing=missing, cost_heads=COST_HEADS, cost_rows=costs)
    write_text(path, html)
    write_text(Path(path).with_suffix(".md"), markdown.report(title, section, costs))
