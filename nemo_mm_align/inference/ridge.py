"""Ridge regression per attribute on frozen features: what a linear map finds in them before anything is trained.

As ArmoRM's first stage (Wang et al., arXiv 2406.12845), with an intercept and an alpha of its own for each attribute.

Shapes: N answers, H features, T attributes, A alphas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ALPHAS = tuple(10.0**power for power in range(-4, 5))
FOLDS = 5


@dataclass(frozen=True)
class Ridge:
    """A fitted map: ``features @ weights_HT + intercept_T``.

    Attributes:
        alpha_T: chosen for each attribute.
        error_T: mean squared error of the held-out folds under that alpha; nan where there was one prompt alone.
    """

    weights_HT: Array
    intercept_T: Array
    alpha_T: Array
    error_T: Array

    def predict(self, features_NH: Array) -> Array:
        """Return the values of answers, [N, T]."""
        return np.asarray(features_NH, np.float64) @ self.weights_HT + self.intercept_T


def fit_ridge(
    features_NH: Array,
    targets_NT: Array,
    prompts_N: NDArray[np.int64],
    alphas: Sequence[float] = ALPHAS,
    folds: int = FOLDS,
    seed: int = 0,
) -> Ridge:
    """Minimise, per attribute, the squared error of known values plus alpha times the squared weights; float64.

    Args:
        features_NH: hidden states.
        targets_NT: values; NaN where one is missing.
        prompts_N: which prompt an answer belongs to; all answers of one fall into the same fold.
        alphas: of which each attribute takes the one with the least error over held-out folds.
        folds: of the prompts, drawn by `seed`.

    Raises:
        ValueError: an attribute has no known value.
    """
    features, targets = np.asarray(features_NH, np.float64), np.asarray(targets_NT, np.float64)
    width, count = features.shape[1], targets.shape[1]
    found = Ridge(np.zeros((width, count)), np.zeros(count), np.zeros(count), np.full(count, np.nan))
    fold_N = _folds(prompts_N, folds, seed)
    for known_N, columns in _alike(targets):
        if not known_N.any():
            raise ValueError(f"no value is known of the attributes number {columns}")
        part = features[known_N], targets[known_N][:, columns]
        error_AT = _errors(*part, fold_N[known_N], alphas)
        chosen_T = np.where(np.isnan(error_AT).all(axis=0), len(alphas) - 1, np.argmin(error_AT, axis=0))
        weights_AHT, intercept_AT = _solve(*part, alphas)
        for place, column in enumerate(columns):
            best = chosen_T[place]
            found.weights_HT[:, column] = weights_AHT[best, :, place]
            found.intercept_T[column] = intercept_AT[best, place]
            found.alpha_T[column], found.error_T[column] = alphas[best], error_AT[best, place]
    return found


def _folds(prompts_N: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    names, place_N = np.unique(prompts_N, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = np.empty(len(names), np.int64)
    fold_of[order] = np.arange(len(names)) % folds
    return fold_of[place_N]


def _alike(targets_NT: Array) -> Iterator[tuple[NDArray[np.bool_], list[int]]]:
    """Yield the attributes that are known of the same answers together: they share all that is costly."""
    known_NT = ~np.isnan(targets_NT)
    patterns: dict[bytes, list[int]] = {}
    for column in range(targets_NT.shape[1]):
        patterns.setdefault(known_NT[:, column].tobytes(), []).append(column)
    yield from ((known_NT[:, columns[0]], columns) for columns in patterns.values())


def _errors(features_NH: Array, targets_NT: Array, fold_N: NDArray[np.int64], alphas: Sequence[float]) -> Array:
    """Mean squared error over held-out folds, [A, T]; nan where there is one fold alone."""
    total_AT = np.zeros((len(alphas), targets_NT.shape[1]))
    if len(np.unique(fold_N)) < 2:
        return np.full_like(total_AT, np.nan)
    for fold in np.unique(fold_N):
        out_N = fold_N == fold
        weights_AHT, intercept_AT = _solve(features_NH[~out_N], targets_NT[~out_N], alphas)
        told_ANT = features_NH[out_N] @ weights_AHT + intercept_AT[:, None]
        total_AT += ((told_ANT - targets_NT[out_N]) ** 2).sum(axis=1)
    return total_AT / len(targets_NT)


def _solve(features_NH: Array, targets_NT: Array, alphas: Sequence[float]) -> tuple[Array, Array]:
    """Return weights [A, H, T] and intercepts [A, T] under every alpha, from one decomposition of the smaller product."""
    mean_H, mean_T = features_NH.mean(axis=0), targets_NT.mean(axis=0)
    centred_NH, centred_NT = features_NH - mean_H, targets_NT - mean_T
    answers, width = centred_NH.shape
    alpha_A11 = np.asarray(alphas)[:, None, None]
    if answers >= width:
        values, vectors = np.linalg.eigh(centred_NH.T @ centred_NH)
        projected = vectors.T @ (centred_NH.T @ centred_NT)
        weights_AHT = vectors @ (projected / (values.clip(0)[:, None] + alpha_A11))
    else:
        values, vectors = np.linalg.eigh(centred_NH @ centred_NH.T)
        projected = vectors.T @ centred_NT
        weights_AHT = (centred_NH.T @ vectors) @ (projected / (values.clip(0)[:, None] + alpha_A11))
    return weights_AHT, mean_T - mean_H @ weights_AHT
