"""POPE's figures: F1, precision, recall and share of yes, of counts of true and false yes and no."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from nemo_mm_align.evaluation.statistics import Columns, Statistic
from nemo_mm_align.evaluation.tasks.pope_data import SPLITS

COUNTS = ("tp", "fp", "fn", "tn")
COLUMNS = ("split", *COUNTS)

Counts = Mapping[str, np.ndarray]
"""By name, one number per resample, [R]; ``n`` is how many answers there are."""


def columns_of(split: str, label: str, read: str) -> dict[str, float]:
    """Return one answer's columns. What cannot be read is fn where the label is yes, and none of the four where it is no."""
    name = {("yes", "yes"): "tp", ("no", "yes"): "fp", ("no", "no"): "tn"}.get(
        (label, read), "fn" if label == "yes" else ""
    )
    return {"split": float(SPLITS.index(split)), **{one: float(one == name) for one in COUNTS}}


def f1(counts: Counts) -> np.ndarray:
    """2 tp / (2 tp + fp + fn), the harmonic mean of precision and recall."""
    return _share(2 * counts["tp"], 2 * counts["tp"] + counts["fp"] + counts["fn"])


def precision(counts: Counts) -> np.ndarray:
    """Of the answers yes, how many are right."""
    return _share(counts["tp"], counts["tp"] + counts["fp"])


def recall(counts: Counts) -> np.ndarray:
    """Of the questions whose answer is yes, how many got it."""
    return _share(counts["tp"], counts["tp"] + counts["fn"])


def yes_rate(counts: Counts) -> np.ndarray:
    """Of all answers, not of the labels, how many are yes."""
    return _share(counts["tp"] + counts["fp"], counts["n"])


def pope_statistics() -> tuple[Statistic, ...]:
    """Return the mean F1, then each figure of each split."""
    figures = {"f1": f1, "precision": precision, "recall": recall, "yes_rate": yes_rate}
    return (
        Statistic("mean_f1", COLUMNS, _mean_f1),
        *(
            Statistic(f"{name}.{split}", COLUMNS, _of_split(figure, split))
            for split in SPLITS
            for name, figure in figures.items()
        ),
    )


def _of_split(figure: Callable[[Counts], np.ndarray], split: str) -> Callable[[np.ndarray, Columns], np.ndarray]:
    return lambda weights_RA, columns: figure(_counts(weights_RA, columns, split))


def _counts(weights_RA: np.ndarray, columns: Columns, split: str) -> Counts:
    chosen_A = columns["split"] == SPLITS.index(split)
    summed_AC = np.stack([chosen_A, *(chosen_A * columns[name] for name in COUNTS)], axis=1).astype(float)
    return dict(zip(("n", *COUNTS), (weights_RA @ summed_AC).T, strict=True))  # one pass over the weights, none copied


def _mean_f1(weights_RA: np.ndarray, columns: Columns) -> np.ndarray:
    """Mean over the splits that have answers; NaN where the F1 of one of them cannot be told."""
    present = [split for index, split in enumerate(SPLITS) if (columns["split"] == index).any()]
    if not present:
        return np.full(len(weights_RA), np.nan)
    mean_R: np.ndarray = np.mean([f1(_counts(weights_RA, columns, split)) for split in present], axis=0)
    return mean_R


def _share(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = np.where(below > 0, above / below, np.nan)
    return found
