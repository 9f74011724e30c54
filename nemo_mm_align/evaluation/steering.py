"""Asked against judged: the steering curve and its rank correlation, per attribute."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import stats

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import Interval, interval_of, t_interval
from nemo_mm_align.evaluation.results import CurvePoint, SteeringResult
from nemo_mm_align.schema.attributes import AttributeSchema


def steering_results(
    answers_per_seed: Sequence[Sequence[ScoredAnswer]], schema: AttributeSchema
) -> dict[str, SteeringResult]:
    """Return asked against judged for every attribute that was swept, of one method's answers in each seed.

    An answer belongs to an attribute's sweep if every other attribute was asked at its default; one asked at all the
    defaults belongs to every sweep. Attributes asked at fewer than two values are left out.

    Raises:
        UserError: an answer has no `asked`, or departs from the defaults in more than one attribute.
    """
    judged = [[answer for answer in answers if answer.ratings] for answers in answers_per_seed]
    for answer in (answer for answers in judged for answer in answers):
        _check_sweep(answer, schema)
    sweeps = {name: [_sweep(answers, name, schema) for answers in judged] for name in schema.names}
    return {
        name: _steering_result(name, per_seed, schema)
        for name, per_seed in sweeps.items()
        if len({answer.asked[name] for answers in per_seed for answer in answers if answer.asked}) > 1
    }


def _check_sweep(answer: ScoredAnswer, schema: AttributeSchema) -> None:
    if answer.asked is None:
        raise UserError(f"steering answer of prompt {answer.prompt_id} does not say what was asked.")
    moved = [name for name, value in schema.check_some(answer.asked).items() if value != schema[name].default]
    if len(moved) > 1:
        raise UserError(
            f"steering answer of prompt {answer.prompt_id} departs from the defaults in {', '.join(moved)}; "
            "vary one attribute at a time."
        )


def _sweep(answers: Sequence[ScoredAnswer], name: str, schema: AttributeSchema) -> list[ScoredAnswer]:
    return [
        answer
        for answer in answers
        if answer.asked is not None
        and name in answer.asked
        and all(value == schema[other].default for other, value in answer.asked.items() if other != name)
    ]


def _steering_result(name: str, per_seed: Sequence[Sequence[ScoredAnswer]], schema: AttributeSchema) -> SteeringResult:
    correlations = [_spearman(name, answers) for answers in per_seed]
    errors = [
        _mean(abs(answer.ratings[name] - value) for value, answer in _asked(name, answers)) for answers in per_seed
    ]
    tastes = [other.name for other in schema.attributes if other.higher_is_better is None and other.name != name]
    return SteeringResult(
        spearman=_mean_known(correlations),
        spearman_per_seed=correlations,
        interval=_over_seeds(correlations),
        mae=_mean_known(errors),
        mae_per_seed=[error for error in errors if error is not None],
        mae_interval=_over_seeds(errors),
        at_equal_length=_mean_known([_at_equal_length(name, answers) for answers in per_seed]),
        cross_talk={
            other: slope
            for other in tastes
            if (slope := _mean_known([_slope(name, other, answers) for answers in per_seed])) is not None
        },
        curve=_curve(name, per_seed, schema),
    )


def _asked(name: str, answers: Sequence[ScoredAnswer]) -> list[tuple[float, ScoredAnswer]]:
    return [(answer.asked[name], answer) for answer in answers if answer.asked]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


def _mean_known(values: Sequence[float | None]) -> float | None:
    return _mean(value for value in values if value is not None)


def _over_seeds(values: Sequence[float | None]) -> Interval | None:
    bounds = t_interval([value for value in values if value is not None])
    return Interval(low=bounds[0], high=bounds[1], over="seeds") if bounds else None


def _spearman(name: str, answers: Sequence[ScoredAnswer]) -> float | None:
    asked = [value for value, _ in _asked(name, answers)]
    return _rank_correlation(asked, [answer.ratings[name] for answer in answers]) if len(set(asked)) > 1 else None


def _rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    if len(set(left)) < 2 or len(set(right)) < 2:
        return 0.0
    return float(stats.spearmanr(left, right).statistic)


def _at_equal_length(name: str, answers: Sequence[ScoredAnswer]) -> float | None:
    """Partial rank correlation of asked and judged, given the number of words (Kendall 1942, on ranks)."""
    pairs = _asked(name, answers)
    asked, judged = [value for value, _ in pairs], [answer.ratings[name] for _, answer in pairs]
    words: list[float] = [answer.num_words for _, answer in pairs]
    if len(set(asked)) < 2:
        return None
    direct, of_asked, of_judged = (
        _rank_correlation(*pair) for pair in ((asked, judged), (asked, words), (judged, words))
    )
    rest = (1 - of_asked**2) * (1 - of_judged**2)
    return (direct - of_asked * of_judged) / math.sqrt(rest) if rest > 1e-9 else None


def _slope(name: str, other: str, answers: Sequence[ScoredAnswer]) -> float | None:
    """Least-squares change of another attribute's judged value per step asked of this one."""
    pairs = _asked(name, answers)
    asked = [value for value, _ in pairs]
    if len(set(asked)) < 2 or any(other not in answer.ratings for _, answer in pairs):
        return None
    return float(stats.linregress(asked, [answer.ratings[other] for _, answer in pairs]).slope)


def _curve(name: str, per_seed: Sequence[Sequence[ScoredAnswer]], schema: AttributeSchema) -> list[CurvePoint]:
    by_value: dict[float, list[list[ScoredAnswer]]] = {}
    for index, answers in enumerate(per_seed):
        for value, answer in _asked(name, answers):
            by_value.setdefault(value, [[] for _ in per_seed])[index].append(answer)
    return [_point(name, value, judged, schema) for value, judged in sorted(by_value.items())]


def _point(name: str, asked: float, per_seed: Sequence[Sequence[ScoredAnswer]], schema: AttributeSchema) -> CurvePoint:
    present = [answers for answers in per_seed if answers]
    values = [[answer.ratings[name] for answer in answers] for answers in present]

    def over_seeds(value_of: Callable[[ScoredAnswer], float]) -> float:
        return float(np.mean([np.mean([value_of(answer) for answer in answers]) for answers in present]))

    return CurvePoint(
        asked=asked,
        judged=over_seeds(lambda answer: answer.ratings[name]),
        count=sum(map(len, present)),
        interval=interval_of(values),
        score=over_seeds(lambda answer: schema.total(answer.ratings)),
        words=over_seeds(lambda answer: answer.num_words),
    )
