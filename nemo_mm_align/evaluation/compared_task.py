"""One task of several finished evaluations: all pairs of their methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from nemo_mm_align.core.construction import construct
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.comparison import Change, Changes, ComparedTask, Difference
from nemo_mm_align.evaluation.failures import Failures, figures_of
from nemo_mm_align.evaluation.findings import figure_label
from nemo_mm_align.evaluation.finished import Answers, FinishedTask
from nemo_mm_align.evaluation.length_control import length_controlled
from nemo_mm_align.evaluation.measures import Measure, Measurement
from nemo_mm_align.evaluation.metrics import comparable
from nemo_mm_align.evaluation.permutation import holm
from nemo_mm_align.evaluation.resampled import Pair, RunFigures, run_figures
from nemo_mm_align.evaluation.results import Results
from nemo_mm_align.evaluation.statistics import Statistic
from nemo_mm_align.evaluation.tasks.optional import statistics_of
from nemo_mm_align.evaluation.wording import listing

_SHOWN = 5
"""Changed prompts that are shown of each pair, and differing ones that a message names."""


def compare_task(task: str, runs: Mapping[str, FinishedTask]) -> ComparedTask:
    """Compare all methods of several evaluations of one task.

    Raises:
        UserError: the runs are of different tasks, or of different prompts; it says which.
    """
    methods = {
        (name if len(run.methods) == 1 else f"{name}/{method}"): answers
        for name, run in runs.items()
        for method, answers in run.methods.items()
    }
    _check_same(task, runs, methods)
    first = next(iter(runs.values())).results
    statistics, notes = _statistics(first, methods)
    answers = {name: list(of.values()) for name, of in methods.items()}
    pairs = [(later, earlier) for earlier, later in combinations(methods, 2)]
    reliable = _Reliable(answers, statistics)
    found = run_figures(answers, statistics, pairs, reliable.both)
    return ComparedTask(
        task=first.task,
        measures=first.measures,
        prompts=len(next(iter(methods.values()))),
        methods=_measurements(found, methods, reliable.failures),
        differences=_at_equal_length(_differences(found), answers, _judged(runs)),
        changes=[_changes(pair, methods, first.measures, reliable) for pair in pairs],
        resampling=found.resampling,
        notes=[*notes, *_unlike(runs)],
    )


def _check_same(task: str, runs: Mapping[str, FinishedTask], methods: Mapping[str, Answers]) -> None:
    kinds = {name: run.results.task for name, run in runs.items()}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise UserError(f"{task}: is not the same task everywhere ({said}). Compare evaluations of the same task.")
    first, expected = next(iter(methods.items()))
    for name, answers in methods.items():
        if different := sorted(expected.keys() ^ answers.keys()):
            shown = ", ".join(f"{one} (only {first if one in expected else name})" for one in different[:_SHOWN])
            raise UserError(
                f"{task}: {first} and {name} were evaluated on different prompts, {len(different)} differ: {shown}"
                f"{', ...' if len(different) > _SHOWN else ''}. Evaluate them on the same prompts."
            )


def _statistics(results: Results, methods: Mapping[str, Answers]) -> tuple[tuple[Statistic, ...], list[str]]:
    """Figures that are no means are known to the task alone, which is built anew as the results say."""
    known = {figure for answers in methods.values() for answer in answers.values() for figure in answer.values}
    whole = [name for one in results.methods.values() for name in one.measurements if name not in known]
    if not whole:
        return (), []
    try:
        task = construct(results.reproduction.task if results.reproduction else {}, "task", "evaluation tasks")
        return statistics_of(task), []
    except UserError as error:
        labels = listing([figure_label(results, name) for name in dict.fromkeys(whole)])
        return (), [f"Not compared, since the task cannot be built from what the results say: {labels}. {error}"]


class _Reliable:
    """Which figures too many answers failed in to compare them."""

    def __init__(self, methods: Mapping[str, Sequence[ScoredAnswer]], statistics: Sequence[Statistic]) -> None:
        self.failures = Failures(methods, statistics)
        self._n = {name: Counter(_figures(answers, statistics)) for name, answers in methods.items()}

    def both(self, pair: Pair, figure: str) -> bool:
        """Whether both of a pair are reliable in a figure."""
        return comparable(*(self._measurement(name, figure) for name in pair))

    def _measurement(self, method: str, figure: str) -> Measurement:
        failed = self.failures.count(method, figure)
        return Measurement(value=0.0, n=self._n[method][figure], failed=failed, per_seed=[])


def _figures(answers: Sequence[ScoredAnswer], statistics: Sequence[Statistic]) -> Iterator[str]:
    for answer in answers:
        yield from figures_of(answer, statistics)


def _measurements(
    found: RunFigures, methods: Mapping[str, Answers], failures: Failures
) -> dict[str, dict[str, Measurement]]:
    result: dict[str, dict[str, Measurement]] = {name: {} for name in methods}
    for (method, figure), one in found.values.items():
        result[method][figure] = Measurement(
            value=one.value,
            interval=one.interval,
            n=one.n,
            failed=failures.count(method, figure),
            per_seed=[one.value],
        )
    return result


def _differences(found: RunFigures) -> list[Difference]:
    families: dict[str, dict[tuple[Pair, str], float]] = {}
    for key, one in found.differences.items():
        if one.p_value is not None:
            families.setdefault(key[1].partition(".")[0], {})[key] = one.p_value
    corrected = {key: (p, len(family)) for family in families.values() for key, p in holm(family).items()}
    return [
        Difference(
            figure=figure,
            method=pair[0],
            against=pair[1],
            value=one.value,
            interval=one.interval,
            p_value=one.p_value,
            p_corrected=corrected[pair, figure][0] if one.p_value is not None else None,
            comparisons=corrected[pair, figure][1] if one.p_value is not None else None,
            prompts=one.n,
        )
        for (pair, figure), one in found.differences.items()
    ]


def _judged(runs: Mapping[str, FinishedTask]) -> str:
    """Name of the first measure where a judge gave it; "" where nobody was asked."""
    asked = all(run.results.reproduction and run.results.reproduction.judge for run in runs.values())
    return next(iter(runs.values())).results.primary.name if asked else ""


def _at_equal_length(
    differences: list[Difference], answers: Mapping[str, Sequence[ScoredAnswer]], judged: str
) -> list[Difference]:
    for one in differences:
        if one.figure == judged and (found := length_controlled(answers[one.method], answers[one.against], judged)):
            one.length_controlled, one.length_controlled_interval = found.difference, found.interval
    return differences


def _changes(pair: Pair, methods: Mapping[str, Answers], measures: Sequence[Measure], reliable: _Reliable) -> Changes:
    """Prompts that are worth more or less; which is the better direction, the measure says."""
    after, before = (methods[name] for name in pair)
    known = {name for answers in (after, before) for one in answers.values() for name in one.values}
    measure = next((one for one in measures if one.name in known and one.better is not None), None)
    if measure is None or not reliable.both(pair, measure.name):
        return Changes(method=pair[0], against=pair[1])
    sign = -1 if measure.better == "lower" else 1
    both = [one for one in before if measure.name in before[one].values and measure.name in after[one].values]
    gains = {one: sign * (after[one].values[measure.name] - before[one].values[measure.name]) for one in both}
    worse = sorted((one for one in both if gains[one] < 0), key=lambda one: (gains[one], one))
    return Changes(
        method=pair[0],
        against=pair[1],
        figure=measure.name,
        better=sum(gain > 0 for gain in gains.values()),
        worse=len(worse),
        equal=sum(gain == 0 for gain in gains.values()),
        worst=[_change(before[one], after[one], measure.name) for one in worse[:_SHOWN]],
    )


def _change(before: ScoredAnswer, after: ScoredAnswer, name: str) -> Change:
    return Change(
        prompt=before.prompt_id,
        before=before.values[name],
        after=after.values[name],
        answer_before=before.answer,
        answer_after=after.answer,
    )


def _unlike(runs: Mapping[str, FinishedTask]) -> list[str]:
    """Say what is not the same in evaluations of the same task, and could explain a difference."""
    said = {
        "judges": {name: _judge(run.results) for name, run in runs.items()},
        "files that the task was made of": {
            name: ", ".join(f"{one.name} {one.sha256[:12]}" for one in run.results.sources)
            for name, run in runs.items()
        },
        "attribute schemas": {name: run.results.schema_name for name, run in runs.items()},
    }
    unlike = {what: of for what, of in said.items() if len(set(of.values())) > 1}
    return [
        f"Not the same {what} ({'; '.join(f'{name}: {value or None}' for name, value in of.items())}): differences may be theirs."
        for what, of in unlike.items()
    ]


def _judge(results: Results) -> str:
    if results.reproduction is None:
        return ""
    return " ".join([results.reproduction.judge, *results.reproduction.judge_versions])
