"""AlpacaEval's length-controlled win rate: what the win rate would be if both answers were equally long.

Read from tatsu-lab/alpaca_eval, src/alpaca_eval/metrics/glm_winrate.py, commit cd543a149df89434d8a54582c0151c0b945c3d20
(Dubois et al., arXiv 2404.04475). A logistic regression without intercept, L1, of the preference on

    tanh(length difference / its standard deviation),    the instruction's difficulty,    1 (0 for a gamed baseline)

is asked for its prediction at no length difference. Rows of two gamed baselines weigh 0.1 each, so that the first weight is not
learnt from one model alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
from scipy.special import expit

from nemo_mm_align.evaluation.statistics import Columns

PREFERENCE, DIFFERENCE, DIFFICULTY, POSITION = "preference", "length_difference", "difficulty", "position"
"""Columns: 0 to 1; characters of the baseline's answer less ours; of the instruction; its place in the instruction set."""

GAMED_WEIGHT = 0.2 / 2
FOLDS = 5
STRENGTHS = np.logspace(-4, 4, 10)
"""Inverse strengths of the penalty that cross-validation chooses from."""

UNFOLDED = 100.0
"""The inverse strength where there are fewer answers than folds; the package's own, where it does not cross-validate."""

SEED = 123


@dataclass(frozen=True)
class GamedRows:
    """Published judgements of the baseline asked to be verbose, and to be concise: [G] each.

    Args:
        preference: 0 to 1.
        length: its difference over its standard deviation.
        difficulty: of the instruction.
    """

    preference: np.ndarray
    length: np.ndarray
    difficulty: np.ndarray


@dataclass(frozen=True)
class Rows:
    """What a regression is fitted on: features [N, F], preferences [N] and weights [N]."""

    features: np.ndarray
    preference: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class LengthControl:
    """The figure as a `Statistic` computes it, in per cent; NaN without any answer.

    The set as it is goes through the package's cross-validation. Resamples take the strength of the penalty that it chose, which
    spares fifty fits each; the standard deviation of the lengths is each resample's own.

    Args:
        has_difficulty: whether the instruction's difficulty is a feature.
        gamed: rows of gamed baselines, None without.
    """

    has_difficulty: bool = False
    gamed: GamedRows | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What it is computed of."""
        return (PREFERENCE, DIFFERENCE, POSITION, *((DIFFICULTY,) if self.has_difficulty else ()))

    def __call__(self, weights_RA: np.ndarray, columns: Columns) -> np.ndarray:
        """Return the figure of each resample, [R], from how often each answer was drawn, [R, A]."""
        order = np.argsort(columns[POSITION], kind="stable")
        sorted_columns = {name: np.asarray(columns[name], dtype=float)[order] for name in self.columns}
        if not len(order):
            return np.full(len(weights_RA), np.nan)
        strength = chosen_strength(self.rows(np.ones(len(order)), sorted_columns))
        return np.array([self._figure(weights_A[order], sorted_columns, strength) for weights_A in weights_RA])

    def _figure(self, weights_A: np.ndarray, columns: Columns, strength: float) -> float:
        drawn = weights_A > 0
        if not drawn.any():
            return float("nan")
        kept, weights = {name: column[drawn] for name, column in columns.items()}, weights_A[drawn]
        coefficients_F = fit(self.rows(weights, kept), strength)
        equal_length = self._features(np.zeros(len(weights)), kept)
        return float(100 * np.average(expit(equal_length @ coefficients_F), weights=weights))

    def rows(self, weights_A: np.ndarray, columns: Columns) -> Rows:
        """Return what is fitted: rows of gamed baselines first, then the answers."""
        lengths = np.tanh(standardised(columns[DIFFERENCE], weights_A))
        features, preference, weight = self._features(lengths, columns), columns[PREFERENCE], weights_A
        if self.gamed is not None:
            count = len(self.gamed.preference)
            first = np.stack([np.tanh(self.gamed.length), self.gamed.difficulty, np.zeros(count)], axis=1)
            features = np.concatenate([first, features])
            preference = np.concatenate([self.gamed.preference, preference])
            weight = np.concatenate([np.full(count, GAMED_WEIGHT), weight])
        return Rows(features, preference, weight)

    def _features(self, lengths_A: np.ndarray, columns: Columns) -> np.ndarray:
        difficulty = [columns[DIFFICULTY]] if self.has_difficulty else []
        return np.stack([lengths_A, *difficulty, np.ones(len(lengths_A))], axis=1)


def standardised(difference_A: np.ndarray, weights_A: np.ndarray) -> np.ndarray:
    """Return differences over their sample standard deviation, each counted as often as it was drawn; 0 where all are equal."""
    count = weights_A.sum()
    mean = np.average(difference_A, weights=weights_A)
    spread = np.sqrt((weights_A * (difference_A - mean) ** 2).sum() / (count - 1)) if count > 1 else 0.0
    result: np.ndarray = difference_A / spread if spread > 0 else np.zeros(len(difference_A))
    return result


def fit(rows: Rows, strength: float) -> np.ndarray:
    """Return the coefficients, [F]. A preference p counts as p wins and 1 - p losses."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=strength, solver="liblinear", fit_intercept=False, random_state=SEED, **_l1(LogisticRegression)
    )
    wins = np.repeat([1, 0], len(rows.preference))
    weight = np.concatenate([rows.preference * rows.weight, (1 - rows.preference) * rows.weight])
    model.fit(np.concatenate([rows.features, rows.features]), wins, sample_weight=weight)
    coefficients_F: np.ndarray = model.coef_[0]
    return coefficients_F


def _l1(model: Any) -> dict[str, Any]:
    """Return how this version of scikit-learn is told L1: by name until 1.7, by a ratio since."""
    by_name = signature(model).parameters.get("penalty")
    return {"penalty": "l1"} if by_name is not None and by_name.default == "l2" else {"l1_ratio": 1.0}


def chosen_strength(rows: Rows) -> float:
    """Return the inverse strength of the penalty with the least log loss over five folds; the smallest of equals."""
    count = len(rows.preference)
    if count < FOLDS:
        return UNFOLDED
    scores = np.zeros(len(STRENGTHS))
    for held_out in _folds(count):
        rest, held = _part(rows, ~held_out), _part(rows, held_out)
        scores += [-_log_loss(held, fit(rest, strength)) for strength in STRENGTHS]
    return float(STRENGTHS[int(scores.argmax())])


def _folds(count: int) -> Sequence[np.ndarray]:
    """Return a mask per fold, [N], as scikit-learn deals out groups: a row's win and its loss are one."""
    from sklearn.model_selection import GroupKFold

    groups = np.tile(np.arange(count), 2)
    masks = []
    for _, held_out in GroupKFold(n_splits=FOLDS).split(groups, groups=groups):
        mask = np.zeros(count, dtype=bool)
        mask[groups[held_out]] = True
        masks.append(mask)
    return masks


def _part(rows: Rows, mask: np.ndarray) -> Rows:
    return Rows(rows.features[mask], rows.preference[mask], rows.weight[mask])


def _log_loss(rows: Rows, coefficients_F: np.ndarray) -> float:
    chance = np.clip(expit(rows.features @ coefficients_F), 1e-15, 1 - 1e-15)
    losses = rows.preference * np.log(chance) + (1 - rows.preference) * np.log(1 - chance)
    return float(-np.mean(losses * rows.weight))
