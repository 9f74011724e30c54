"""Asked against judged: the steering curve and its figures, per attribute; what each is stands in `steering_figures.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation import steering_figures as figures
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import interval_of
from nemo_mm_align.evaluation.results import CurvePoint, SteeringResult
from nemo_mm_align.evaluation.steering_figures import Sweep
from nemo_mm_align.evaluation.steering_intervals import over_prompts, over_seeds
from nemo_mm_align.evaluation.tasks.rated import CORRECTNESS
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
        name: _steering_result(per_seed, schema)
        for name, per_seed in sweeps.items()
        if len({value for sweep in per_seed for value in sweep.asked}) > 1
    }


def _check_sweep(answer: ScoredAnswer, schema: AttributeSchema) -> None:
    if answer.asked is None:
        raise UserError(f"steering answer of prompt {answer.prompt_id} does not say what was asked.")
    moved = schema.moved(answer.asked)
    if len(moved) > 1:
        raise UserError(
            f"steering answer of prompt {answer.prompt_id} departs from the defaults in {', '.join(moved)}; "
            "vary one attribute at a time."
        )


def _sweep(answers: Sequence[ScoredAnswer], name: str, schema: AttributeSchema) -> Sweep:
    chosen = [
        answer
        for answer in answers
        if answer.asked is not None
        and name in answer.asked
        and all(value == schema[other].default for other, value in answer.asked.items() if other != name)
    ]
    return Sweep(name, chosen)


def _steering_result(per_seed: Sequence[Sweep], schema: AttributeSchema) -> SteeringResult:
    name = per_seed[0].name
    correlations, errors, slopes, follows = (
        [figure(sweep) for sweep in per_seed]
        for figure in (figures.spearman, figures.mean_error, figures.slope, figures.never_against)
    )
    alone = over_prompts(per_seed[0]) if len(per_seed) == 1 else {}
    matrix = {other: _mean_known([figures.slope(sweep, other) for sweep in per_seed]) for other in schema.names}
    known = {other: change for other, change in matrix.items() if change is not None}
    tastes = [other.name for other in schema.attributes if other.higher_is_better is None and other.name != name]
    return SteeringResult(
        spearman=_mean_known(correlations),
        spearman_per_seed=correlations,
        interval=over_seeds(correlations) or alone.get("spearman"),
        mae=_mean_known(errors),
        mae_per_seed=[error for error in errors if error is not None],
        mae_interval=over_seeds(errors),
        at_equal_length=_mean_known([figures.at_equal_length(sweep) for sweep in per_seed]),
        cross_talk={other: known[other] for other in tastes if other in known},
        curve=_curve(per_seed, schema),
        slope=_mean_known(slopes),
        slope_interval=over_seeds(slopes) or alone.get("slope"),
        never_against=_mean_known(follows),
        never_against_interval=over_seeds(follows) or alone.get("never_against"),
        strictly_follows=_mean_known([figures.strictly(sweep) for sweep in per_seed]),
        range=_mean_known([figures.spread(sweep) for sweep in per_seed]),
        matrix=known,
    )


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _curve(per_seed: Sequence[Sweep], schema: AttributeSchema) -> list[CurvePoint]:
    by_value: dict[float, list[list[ScoredAnswer]]] = {}
    for index, sweep in enumerate(per_seed):
        for value, answer in zip(sweep.asked, sweep.answers, strict=True):
            by_value.setdefault(value, [[] for _ in per_seed])[index].append(answer)
    return [_point(per_seed[0].name, value, judged, schema) for value, judged in sorted(by_value.items())]


def _point(name: str, asked: float, per_seed: Sequence[Sequence[ScoredAnswer]], schema: AttributeSchema) -> CurvePoint:
    present = [answers for answers in per_seed if answers]
    values = [[answer.ratings[name] for answer in answers] for answers in present]
    has_correctness = all(CORRECTNESS in answer.ratings for answers in present for answer in answers)

    def mean_of(value_of: Callable[[ScoredAnswer], float]) -> float:
        return float(np.mean([np.mean([value_of(answer) for answer in answers]) for answers in present]))

    return CurvePoint(
        asked=asked,
        judged=mean_of(lambda answer: answer.ratings[name]),
        count=sum(map(len, present)),
        interval=interval_of(values),
        score=mean_of(lambda answer: schema.total(answer.ratings)),
        words=mean_of(lambda answer: answer.num_words),
        correctness=mean_of(lambda answer: answer.ratings[CORRECTNESS]) if has_correctness else None,
    )
