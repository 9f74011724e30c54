"""Answers of one or several runs to `Results`, and the folder that holds results.json and report.html."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.cost import Cost
from nemo_mm_align.evaluation.metrics import SeedAnswers, method_results, text_ability
from nemo_mm_align.evaluation.report import write_report
from nemo_mm_align.evaluation.results import (
    Layout,
    Reproduction,
    Results,
    SourceFacts,
    TrainingFacts,
    installed_versions,
    write_results,
)
from nemo_mm_align.evaluation.steering import steering_results
from nemo_mm_align.evaluation.steering_report import SteeredSample
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.evaluation.tasks.optional import asks_judge, sources_of, statistics_of
from nemo_mm_align.evaluation.tasks.task import Task
from nemo_mm_align.evaluation.tested import add_resampled
from nemo_mm_align.schema.attributes import AttributeSchema


def summarise(
    seeds: Sequence[SeedAnswers],
    schema: AttributeSchema,
    task: Task,
    training: Mapping[str, TrainingFacts] | None = None,
    layouts: Mapping[str, Layout] | None = None,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    *,
    bootstrap: bool = False,
    cost: Cost | None = None,
    reproduction: Reproduction | None = None,
) -> Results:
    """Return everything that is reported of these runs.

    Args:
        seeds: the judged answers of each run.
        schema: the judged attributes.
        task: which scored the answers.
        training: how each method was trained, by method.
        layouts: how each stage was spread over processes, by stage, as its ranks reported it.
        settings: whatever a reader needs to repeat the runs.
        notes: sentences that stand at the top of the report.
        bootstrap: resample the prompts of a single run, in the groups of `ScoredAnswer.group`, and test its differences;
            otherwise its intervals are Student's and Wilson's.
        cost: what it cost to have the answers judged.
        reproduction: what it takes to repeat it.

    Raises:
        UserError: the answers cannot be compared, or a rating is not one of the schema.
    """
    statistics = statistics_of(task)
    methods = method_results(seeds, task.measures, statistics)
    resampling = None
    if len(seeds) == 1 and (bootstrap or statistics):
        only = None if bootstrap else {statistic.measure for statistic in statistics}
        judged = task.measures[0].name if bootstrap and asks_judge(task) else ""
        resampling = add_resampled(methods, seeds[0].methods, statistics, only, judged)
    for name, facts in (training or {}).items():
        if name in methods:
            methods[name].training = facts
    steered = {
        name: steering_results([seed.steering[name] for seed in seeds], schema)
        for name in seeds[0].steering
        if all(name in seed.steering for seed in seeds)
    }
    return Results(
        task=task.name,
        measures=task.measures,
        prompts=_kinds(seeds[0]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seeds=[seed.seed for seed in seeds],
        schema_name=schema.name,
        methods=methods,
        steering=next(iter(steered.values()), {}),
        steering_by_method=steered,
        text_ability=text_ability(seeds),
        layouts=dict(layouts or {}),
        versions=installed_versions(),
        settings=dict(settings or {}),
        notes=list(notes),
        resampling=resampling,
        cost=cost,
        sources=[
            SourceFacts(name=source.name, sha256=source.sha256, published=source.published, said=source.said)
            for source in sources_of(task)
        ],
        reproduction=reproduction,
    )


def _kinds(seed: SeedAnswers) -> dict[str, int]:
    return dict(Counter(answer.kind for answer in next(iter(seed.methods.values()))))


def write_evaluation(
    folder: str | Path,
    results: Results,
    schema: AttributeSchema,
    samples: Sequence[ReportSample] = (),
    steered: Sequence[SteeredSample] = (),
    cautions: Sequence[str] = (),
    scored: Mapping[str, Sequence[ScoredAnswer]] | None = None,
) -> tuple[Path, Path]:
    """Write results.json, report.html and report.md into `folder`; return the first two's paths.

    Args:
        scored: all answers by method, for the plot of score against length; without them there is none.
    """
    results_path, report_path = Path(folder) / "results.json", Path(folder) / "report.html"
    write_results(results_path, results)
    write_report(report_path, results, schema, samples, steered, cautions, scored=scored)
    return results_path, report_path
