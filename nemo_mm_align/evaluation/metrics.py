"""From scored answers to the numbers of `results.json`. Pure counting: no model, no file, no knowledge of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import interval_of
from nemo_mm_align.evaluation.measures import Measure, Measurement, measure_of
from nemo_mm_align.evaluation.results import BASE, MethodResult, TextAbility

Values = dict[str, dict[str, float]]
"""Per measure, the value of each prompt that it applies to, in order of prompt id."""

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


def answer_values(answers: Sequence[ScoredAnswer]) -> Values:
    """Return each measure's value for each prompt that it applies to."""
    values: Values = {}
    for answer in sorted(answers, key=lambda answer: answer.prompt_id):
        for name, value in answer.values.items():
            values.setdefault(name, {})[answer.prompt_id] = float(value)
    return values


def method_results(seeds: Sequence[SeedAnswers], measures: tuple[Measure, ...]) -> dict[str, MethodResult]:
    """Return every method's numbers, intervals and differences to ``base``, in the order of the first seed.

    Raises:
        UserError: methods or seeds do not cover the same methods and prompts, so that they cannot be compared.
    """
    _check_comparable(seeds)
    names = list(seeds[0].methods)
    values = {name: [answer_values(seed.methods[name]) for seed in seeds] for name in names}
    results = {}
    for name in names:
        base = values[BASE] if name != BASE and BASE in values else None
        failed = round(float(np.mean([sum(bool(one.failed) for one in seed.methods[name]) for seed in seeds])))
        found = _measurements(values[name], base, failed, measures)
        result = MethodResult(measurements=found, asked=_common_asked(seeds[0].methods[name]))
        result.score, result.text_score = result.value("score"), result.value(TEXT_SCORE)
        results[name] = result
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


def _measurements(
    per_seed: Sequence[Values], base: Sequence[Values] | None, failed: int, measures: tuple[Measure, ...]
) -> dict[str, Measurement]:
    found = {}
    for name in [name for name in per_seed[0] if all(name in values for values in per_seed)]:
        columns = [list(values[name].values()) for values in per_seed]
        means = [float(np.mean(column)) for column in columns]
        measure = measure_of(name, measures)
        one = Measurement(
            value=float(np.mean(means)),
            interval=interval_of(columns, share=measure is not None and measure.share),
            n=len(columns[0]),
            failed=failed,
            per_seed=means,
        )
        if base is not None and all(name in values for values in base):
            _add_difference(one, [values[name] for values in per_seed], [values[name] for values in base])
        found[name] = one
    return found


def _add_difference(
    one: Measurement, ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]
) -> None:
    """Compare what both have: an answer that nobody could score is in no pair."""
    pairs = [
        [own[prompt] - other[prompt] for prompt in own if prompt in other]
        for own, other in zip(ours, theirs, strict=True)
    ]
    if all(pairs):
        one.minus_base = float(np.mean([np.mean(pair) for pair in pairs]))
        one.minus_base_interval = interval_of(pairs)


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
