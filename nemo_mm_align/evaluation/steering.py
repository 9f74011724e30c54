"""Asked against judged: the steering curve and its rank correlation, per attribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.errors import UserError
from nemo_mm_align.evaluation.answers import JudgedAnswer
from nemo_mm_align.evaluation.intervals import Interval, interval_of, t_interval
from nemo_mm_align.evaluation.metrics import SeedAnswers
from nemo_mm_align.evaluation.results import CurvePoint, SteeringResult


def steering_results(seeds: Sequence[SeedAnswers], schema: AttributeSchema) -> dict[str, SteeringResult]:
    """Return asked against judged for every attribute that was swept.

    An answer belongs to an attribute's sweep if every other attribute was asked at its default; one asked at all the
    defaults belongs to every sweep. Attributes asked at fewer than two values are left out.

    Raises:
        UserError: an answer has no `asked`, or departs from the defaults in more than one attribute.
    """
    judged = [[answer for answer in seed.steering if answer.kind == "image"] for seed in seeds]
    for answer in (answer for answers in judged for answer in answers):
        _check_sweep(answer, schema)
    sweeps = {name: [_sweep(answers, name, schema) for answers in judged] for name in schema.names}
    return {
        name: _steering_result(name, per_seed)
        for name, per_seed in sweeps.items()
        if len({answer.asked[name] for answers in per_seed for answer in answers if answer.asked}) > 1
    }


def _check_sweep(answer: JudgedAnswer, schema: AttributeSchema) -> None:
    if answer.asked is None:
        raise UserError(f"steering answer of prompt {answer.prompt_id} does not say what was asked.")
    moved = [name for name, value in schema.check_some(answer.asked).items() if value != schema[name].default]
    if len(moved) > 1:
        raise UserError(
            f"steering answer of prompt {answer.prompt_id} departs from the defaults in {', '.join(moved)}; "
            "vary one attribute at a time."
        )


def _sweep(answers: Sequence[JudgedAnswer], name: str, schema: AttributeSchema) -> list[JudgedAnswer]:
    return [
        answer
        for answer in answers
        if answer.asked is not None
        and name in answer.asked
        and all(value == schema[other].default for other, value in answer.asked.items() if other != name)
    ]


def _steering_result(name: str, per_seed: Sequence[Sequence[JudgedAnswer]]) -> SteeringResult:
    correlations = [_spearman(name, answers) for answers in per_seed]
    known = [value for value in correlations if value is not None]
    bounds = t_interval(known)
    return SteeringResult(
        spearman=float(np.mean(known)) if known else None,
        spearman_per_seed=correlations,
        interval=Interval(low=bounds[0], high=bounds[1], over="seeds") if bounds else None,
        curve=_curve(name, per_seed),
    )


def _spearman(name: str, answers: Sequence[JudgedAnswer]) -> float | None:
    asked = [answer.asked[name] for answer in answers if answer.asked]
    judged = [answer.ratings[name] for answer in answers]
    if len(set(asked)) < 2:
        return None
    return float(stats.spearmanr(asked, judged).statistic) if len(set(judged)) > 1 else 0.0


def _curve(name: str, per_seed: Sequence[Sequence[JudgedAnswer]]) -> list[CurvePoint]:
    by_value: dict[float, list[list[float]]] = {}
    for index, answers in enumerate(per_seed):
        for answer in answers:
            if answer.asked:
                by_value.setdefault(answer.asked[name], [[] for _ in per_seed])[index].append(answer.ratings[name])
    points = []
    for asked, judged in sorted(by_value.items()):
        present = [values for values in judged if values]
        mean = float(np.mean([np.mean(values) for values in present]))
        count = sum(map(len, present))
        points.append(CurvePoint(asked=asked, judged=mean, count=count, interval=interval_of(present)))
    return points
