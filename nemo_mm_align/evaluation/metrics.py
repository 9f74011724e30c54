"""From judged answers to the numbers of `results.json`. Pure counting: no model, no file, no knowledge of the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.errors import UserError
from nemo_mm_align.evaluation.answers import JudgedAnswer
from nemo_mm_align.evaluation.intervals import interval_of
from nemo_mm_align.evaluation.results import MethodResult, TextAbility

CORRECTNESS = "correctness"
"""The attribute whose highest value makes an answer count as correct."""

SHARES = ("correctness", "hallucination", "yes_no_accuracy", "text_score")
"""Metrics that are shares of answers; the others are means of ratings or lengths."""

Values = dict[str, list[float]]
"""Per metric, one value for each answer that the metric applies to, in order of prompt id."""


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
    methods: Mapping[str, Sequence[JudgedAnswer]]
    steering: Mapping[str, Sequence[JudgedAnswer]] = field(default_factory=dict)
    text_before: Sequence[JudgedAnswer] = field(default_factory=tuple)


def answer_values(answers: Sequence[JudgedAnswer], schema: AttributeSchema) -> Values:
    """Return each metric's value for each answer that it applies to.

    Raises:
        UserError: an image answer lacks a rating of the schema or has one out of range.
    """
    values: Values = {}
    for answer in sorted(answers, key=lambda answer: answer.prompt_id):
        for name, value in _values_of(answer, schema).items():
            values.setdefault(name, []).append(float(value))
    return values


def _values_of(answer: JudgedAnswer, schema: AttributeSchema) -> dict[str, float]:
    if answer.kind == "text":
        return {"text_score": float(bool(answer.text_ok))}
    try:
        ratings = schema.check(answer.ratings)
    except UserError as error:
        raise UserError(f"ratings of prompt {answer.prompt_id}: {error}") from None
    values = {f"judged.{name}": value for name, value in ratings.items()}
    values["score"] = schema.total(ratings)
    values["length_words"] = answer.num_words
    if CORRECTNESS in ratings:
        correct = ratings[CORRECTNESS] == schema[CORRECTNESS].maximum
        values["correctness"] = correct
        if answer.source:
            values[f"correctness_by_source.{answer.source}"] = correct
    if answer.claims_presence is not None:
        values["hallucination"] = answer.claims_presence
    if answer.yes_no_correct is not None:
        values["yes_no_accuracy"] = answer.yes_no_correct
    return values


def method_results(seeds: Sequence[SeedAnswers], schema: AttributeSchema) -> dict[str, MethodResult]:
    """Return every method's numbers, intervals and differences to ``base``, in the order of the first seed.

    Raises:
        UserError: methods or seeds do not cover the same methods and prompts, so that they cannot be compared.
    """
    _check_comparable(seeds)
    names = list(seeds[0].methods)
    values = {name: [answer_values(seed.methods[name], schema) for seed in seeds] for name in names}
    results = {}
    for name in names:
        results[name] = _method_result(values[name])
        results[name].asked = _common_asked(seeds[0].methods[name])
        if name != "base" and "base" in values:
            _add_differences(results[name], values[name], values["base"])
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


def _method_result(per_seed: Sequence[Values]) -> MethodResult:
    names = [name for name in per_seed[0] if all(name in values for values in per_seed)]
    means = {name: [float(np.mean(values[name])) for values in per_seed] for name in names}
    plain = {name: float(np.mean(values)) for name, values in means.items()}
    intervals = {name: interval_of([values[name] for values in per_seed], _is_share(name)) for name in names}
    simple: dict[str, Any] = {name: value for name, value in plain.items() if "." not in name}
    return MethodResult(
        **simple,
        judged=_group(plain, "judged"),
        correctness_by_source=_group(plain, "correctness_by_source"),
        intervals={name: interval for name, interval in intervals.items() if interval},
        per_seed=means,
        counts={name: len(per_seed[0][name]) for name in names},
    )


def _is_share(name: str) -> bool:
    return name.split(".")[0] in (*SHARES, "correctness_by_source")


def _group(plain: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(f"{prefix}."): value for name, value in plain.items() if name.startswith(f"{prefix}.")}


def _common_asked(answers: Sequence[JudgedAnswer]) -> dict[str, float] | None:
    first = next((answer.asked for answer in answers if answer.asked), None)
    return first if all(answer.asked == first for answer in answers if answer.kind == "image") else None


def _add_differences(result: MethodResult, method: Sequence[Values], base: Sequence[Values]) -> None:
    for name in result.per_seed:
        pairs = [np.subtract(ours[name], theirs[name]).tolist() for ours, theirs in zip(method, base, strict=True)]
        result.minus_base[name] = float(np.mean([np.mean(pair) for pair in pairs]))
        if interval := interval_of(pairs):
            result.minus_base_intervals[name] = interval


def text_ability(seeds: Sequence[SeedAnswers], schema: AttributeSchema) -> TextAbility:
    """Return the text score before visual tuning and after it (the base's), where they were measured."""
    sources = {
        "before_visual_tuning": [seed.text_before for seed in seeds],
        "after_visual_tuning": [seed.methods.get("base", ()) for seed in seeds],
    }
    result = TextAbility()
    for name, per_seed in sources.items():
        values = [answer_values(answers, schema).get("text_score", []) for answers in per_seed]
        if all(values):
            result.per_seed[name] = [float(np.mean(one)) for one in values]
            setattr(result, name, float(np.mean(result.per_seed[name])))
            if interval := interval_of(values, share=True):
                result.intervals[name] = interval
    return result
