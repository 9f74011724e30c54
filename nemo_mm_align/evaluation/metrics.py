"""From scored answers to the numbers of `results.json`. Pure counting: no model, no file, no knowledge of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.failures import Failures
from nemo_mm_align.evaluation.intervals import interval_of
from nemo_mm_align.evaluation.measures import Measure, Measurement, measure_of
from nemo_mm_align.evaluation.resampled import answer_values, statistic_value
from nemo_mm_align.evaluation.results import BASE, MethodResult, TextAbility
from nemo_mm_align.evaluation.statistics import Statistic

TEXT_SCORE = "text_score"


@dataclass
class SeedAnswers:
    """All held-out answers of one run of the whole loop.

    Args:
        seed: its seed.
        methods: answers per method, each method to the same prompts.
        steering: per steered model, its answers with `asked` set; see `steering.py`. The first one is the one to be shown.
        text_before: answers to text instructions before visual tuning.
    """

    seed: int
    methods: Mapping[str, Sequence[ScoredAnswer]]
    steering: Mapping[str, Sequence[ScoredAnswer]] = field(default_factory=dict)
    text_before: Sequence[ScoredAnswer] = field(default_factory=tuple)


def method_results(
    seeds: Sequence[SeedAnswers], measures: tuple[Measure, ...], statistics: Sequence[Statistic] = ()
) -> dict[str, MethodResult]:
    """Return every method's numbers, intervals and differences to ``base``, in the order of the first seed.

    Raises:
        UserError: methods or seeds do not cover the same methods and prompts, so that they cannot be compared.
    """
    _check_comparable(seeds)
    failures = [Failures(seed.methods, statistics) for seed in seeds]
    results = {}
    for name in seeds[0].methods:
        per_seed = [seed.methods[name] for seed in seeds]
        found = _means(per_seed, measures) | _wholes(per_seed, statistics)
        for figure, one in found.items():
            one.failed = round(float(np.mean([of_seed.count(name, figure) for of_seed in failures])))
        results[name] = MethodResult(measurements=found, asked=_common_asked(seeds[0].methods[name]))
    if BASE in results:
        for name, result in results.items():
            if name != BASE:
                _add_differences(
                    result, results[BASE], *([seed.methods[one] for seed in seeds] for one in (name, BASE))
                )
    for result in results.values():
        result.score, result.text_score = result.value("score"), result.value(TEXT_SCORE)
    return results


def _check_comparable(seeds: Sequence[SeedAnswers]) -> None:
    if not seeds or not any(seeds[0].methods.values()):
        raise UserError("there are no answers to evaluate.")
    for seed in seeds:
        if list(seed.methods) != list(seeds[0].methods):
            here, there = ", ".join(seed.methods), ", ".join(seeds[0].methods)
            raise UserError(f"seed {seed.seed} ran {here}, seed {seeds[0].seed} ran {there}; run the same methods.")
        expected: set[str] | None = None
        for name, answers in seed.methods.items():
            ids = [answer.prompt_id for answer in answers]
            if len(set(ids)) < len(ids):
                raise UserError(f"{name}, seed {seed.seed}: a prompt is answered twice; give one answer per prompt.")
            expected = set(ids) if expected is None else expected
            if different := sorted(expected ^ set(ids)):
                raise UserError(
                    f"{name}, seed {seed.seed}: its prompts are not those of {next(iter(seed.methods))} "
                    f"({len(different)} differ, for example {different[0]}). Let every method answer the same prompts."
                )


def _means(per_seed: Sequence[Sequence[ScoredAnswer]], measures: tuple[Measure, ...]) -> dict[str, Measurement]:
    values = [answer_values(answers) for answers in per_seed]
    found = {}
    for name in [name for name in values[0] if all(name in of_seed for of_seed in values)]:
        columns = [list(of_seed[name].values()) for of_seed in values]
        means = [float(np.mean(column)) for column in columns]
        measure = measure_of(name, measures)
        interval = interval_of(columns, share=measure is not None and measure.share)
        found[name] = Measurement(value=float(np.mean(means)), interval=interval, n=len(columns[0]), per_seed=means)
    return found


def _wholes(per_seed: Sequence[Sequence[ScoredAnswer]], statistics: Sequence[Statistic]) -> dict[str, Measurement]:
    """Figures that are no means; the interval of a single run comes of resampling."""
    found = {}
    for statistic in statistics:
        values, counts = zip(*(statistic_value(statistic, answers) for answers in per_seed), strict=True)
        if not np.isnan(values).any():
            found[statistic.measure] = Measurement(
                value=float(np.mean(values)),
                interval=interval_of([[value] for value in values]),
                n=counts[0],
                per_seed=list(values),
            )
    return found


def comparable(one: Measurement | None, base: Measurement | None) -> bool:
    """Whether two figures may be compared: neither lacks more than a few answers."""
    return not (one is None or base is None or one.unreliable or base.unreliable)


def _add_differences(
    result: MethodResult,
    base: MethodResult,
    ours: Sequence[Sequence[ScoredAnswer]],
    theirs: Sequence[Sequence[ScoredAnswer]],
) -> None:
    """Compare what both have: an answer that nobody could score is in no pair."""
    values = [(answer_values(own), answer_values(other)) for own, other in zip(ours, theirs, strict=True)]
    for name, one in result.measurements.items():
        if not comparable(one, base.measurements.get(name)):
            continue
        pairs = [_pairs(own.get(name, {}), other.get(name, {})) for own, other in values]
        if not any(pairs):  # a statistic: over seeds its differences are those of its values
            pairs = [[mine - other] for mine, other in zip(one.per_seed, base.measurements[name].per_seed, strict=True)]
        if all(pairs):
            one.minus_base = float(np.mean([np.mean(pair) for pair in pairs]))
            one.minus_base_interval = interval_of(pairs)


def _pairs(own: Mapping[str, float], other: Mapping[str, float]) -> list[float]:
    return [value - other[prompt] for prompt, value in own.items() if prompt in other]


def _common_asked(answers: Sequence[ScoredAnswer]) -> dict[str, float] | None:
    first = next((answer.asked for answer in answers if answer.asked), None)
    return first if all(answer.asked == first for answer in answers if answer.ratings) else None


def text_ability(seeds: Sequence[SeedAnswers]) -> TextAbility:
    """Return the text score before visual tuning and after it (the base's), where they were measured."""
    sources = {
        "before_visual_tuning": [seed.text_before for seed in seeds],
        "after_visual_tuning": [seed.methods.get(BASE, ()) for seed in seeds],
    }
    result = TextAbility()
    for name, per_seed in sources.items():
        values = [list(answer_values(answers).get(TEXT_SCORE, {}).values()) for answers in per_seed]
        if all(values):
            result.per_seed[name] = [float(np.mean(one)) for one in values]
            setattr(result, name, float(np.mean(result.per_seed[name])))
            if interval := interval_of(values, share=True):
                result.intervals[name] = interval
    return result
