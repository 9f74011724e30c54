"""Two sets of ratings side by side: what both rated, how far they agree, and what could not be compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.quality.collect import SCORE
from nemo_mm_align.labeling.quality.sources import RatedFile, Values, match
from nemo_mm_align.reporting.agreement import (
    Estimate,
    PairwiseAccuracy,
    agreement,
    as_json,
    pair_credits,
    pairwise_accuracy,
)
from nemo_mm_align.schema.attributes import AttributeSchema


@dataclass
class Comparison:
    """Agreement of `first` with `second`.

    Args:
        first, second: who rated; `path` is the file of the second.
        prompts, candidates: that both rated.
        only_first, only_second: candidates that the other did not rate.
        attributes: per attribute (and the score) its measures, see `MEASURES`.
        counts: per attribute how many candidates both rated on it.
        pairwise: how often `first` orders two candidates as `second` does.
    """

    first: str
    second: str
    path: str
    prompts: int = 0
    candidates: int = 0
    only_first: int = 0
    only_second: int = 0
    attributes: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    pairwise: PairwiseAccuracy | None = None

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values; a measure is ``[value, low, high]``."""
        result = {key: value for key, value in vars(self).items() if key not in ("attributes", "pairwise")}
        result["attributes"] = {name: as_json(measures) for name, measures in self.attributes.items()}
        if self.pairwise is not None:
            measures = {"accuracy": self.pairwise.accuracy, "accuracy_decided": self.pairwise.decided}
            counts = {name: getattr(self.pairwise, name) for name in ("pairs", "ties", "undecided")}
            result["pairwise"] = {**as_json(measures), **counts}
        return result


def compare(first: RatedFile, second: RatedFile, schema: AttributeSchema, seed: int = 0) -> Comparison:
    """Return the agreement of two files.

    Raises:
        UserError: there is nothing that both rated.
    """
    if second.preferences:
        return _compare_preferences(first, second, schema, seed)
    matched = sorted(match(first, second))
    result = Comparison(first.rater, second.rater, str(second.path), candidates=len(matched))
    result.prompts = len({prompt_id for prompt_id, _, _ in matched})
    result.only_first = _size(first) - len(matched)
    result.only_second = _size(second) - len(matched)
    if not matched:
        raise _nothing_in_common(first, second)
    ids = {prompt_id: index for index, prompt_id in enumerate(sorted({item[0] for item in matched}))}
    prompts = np.array([ids[prompt_id] for prompt_id, _, _ in matched])
    ours = _table([first.values[prompt_id][place] for prompt_id, place, _ in matched], schema)
    theirs = _table([second.values[prompt_id][place] for prompt_id, _, place in matched], schema)
    for index, name in enumerate((*schema.names, SCORE)):
        known = ~np.isnan(ours[:, index]) & ~np.isnan(theirs[:, index])
        if not known.any():
            continue
        owners = np.unique(prompts[known], return_inverse=True)[1]
        result.counts[name] = int(known.sum())
        result.attributes[name] = agreement(ours[known, index], theirs[known, index], owners, seed)
        if name == SCORE:
            result.pairwise = pairwise_accuracy(*_pairs(ours[known, index], theirs[known, index], owners), seed=seed)
    return result


def _pairs(ours: np.ndarray, theirs: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    credits, decided, prompts, undecided = pair_credits(ours.round(9), theirs.round(9), owners)
    return credits, decided, np.unique(prompts, return_inverse=True)[1], undecided


def _compare_preferences(first: RatedFile, second: RatedFile, schema: AttributeSchema, seed: int) -> Comparison:
    credits, owners = list[float](), list[str]()
    for prompt_id, chosen, rejected in second.preferences:
        rated = first.values.get(prompt_id, {})
        if chosen in rated and rejected in rated:
            difference = _score(rated[chosen], schema) - _score(rated[rejected], schema)
            if not math.isnan(difference):
                credits.append(0.5 if abs(difference) < 1e-9 else float(difference > 0))
                owners.append(prompt_id)
    if not credits:
        raise _nothing_in_common(first, second)
    result = Comparison(first.rater, second.rater, str(second.path), prompts=len(set(owners)))
    result.only_second = len(second.preferences) - len(credits)
    values = np.array(credits)
    prompts = np.unique(np.array(owners), return_inverse=True)[1]
    result.pairwise = pairwise_accuracy(values, values != 0.5, prompts, 0, seed)
    return result


def _nothing_in_common(first: RatedFile, second: RatedFile) -> UserError:
    return UserError(
        f"{first.path} and {second.path} rate no candidate in common: prompt ids and texts (in tables: places of "
        "candidates) must be the same. Give the two files of the same prompts and candidates."
    )


def _size(rated: RatedFile) -> int:
    return sum(len(candidates) for candidates in rated.values.values())


def _table(rows: list[Values], schema: AttributeSchema) -> np.ndarray:
    """Return values [answers, attributes + 1], the score in the last column."""
    return np.array([(*row, _score(row, schema)) for row in rows], dtype=float)


def _score(row: Values, schema: AttributeSchema) -> float:
    values = dict(zip(schema.names, row, strict=True))
    known = schema.score and not any(math.isnan(values[name]) for name in schema.score)
    return schema.total(values) if known else math.nan
