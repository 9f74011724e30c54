"""What can be measured of answers, and the figures that come of it: tables, plots and results.json go through these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from nemo_mm_align.evaluation.intervals import Interval

FAILED_SHARE = 0.05
"""A figure of which more answers failed is marked, and not compared."""


class Measure(BaseModel):
    """One thing that a task measures of each answer.

    Args:
        name: key in results.json; of a grouped one, values are called ``name.part`` (``judged.verbosity``).
        label: heading of its column.
        share: whether its values are 0 and 1.
        better: which direction is better; None: neither.
        digits: that tables show.
        grouped: one value per part of an answer or group of prompts; it has no column of its own.
        shown_at_zero: whether reports show it where all methods have 0; False for what is worth a word only where it happens.
        about: what it means, in a sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    label: str
    share: bool = False
    better: Literal["higher", "lower"] | None = "higher"
    digits: int = 2
    grouped: bool = False
    shown_at_zero: bool = True
    about: str = ""


class Measurement(BaseModel):
    """What a measure came to for one method: mean over prompts, then over seeds.

    Args:
        value: the mean.
        interval: its 95 % interval.
        n: answers of one seed that it rests on.
        failed: answers of one seed that would have entered it and could not be scored: they are missing, not 0.
        per_seed: the same mean for each seed, in the order of `Results.seeds`.
        minus_base, minus_base_interval: paired difference to the base (per seed, or per prompt of a single run); absent where
            it or the base's is unreliable.
        p_value: how often chance alone would make a difference as large; of a single run whose prompts were resampled.
        p_corrected: the same, corrected (Holm) for `comparisons`: those of the same measure.
        length_controlled: what `minus_base` would be at equal length, for a judged score.
    """

    model_config = ConfigDict(extra="forbid")

    value: float
    interval: Interval | None = None
    n: int
    failed: int = 0
    per_seed: list[float]
    minus_base: float | None = None
    minus_base_interval: Interval | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    comparisons: int | None = None
    length_controlled: float | None = None
    length_controlled_interval: Interval | None = None

    @property
    def failed_share(self) -> float:
        """Share of the answers that would have entered it and could not be scored."""
        return self.failed / (self.n + self.failed) if self.n + self.failed else 0.0

    @property
    def unreliable(self) -> bool:
        """Whether so many failed that it is not compared: what a judge fails at is no random part."""
        return self.failed_share > FAILED_SHARE


def shown_of(measures: Iterable[Measure], methods: Iterable[Mapping[str, Measurement]]) -> list[Measure]:
    """Return the measures that reports show: those that a method has a value of, see `Measure.shown_at_zero`."""
    values: dict[str, list[float]] = {}
    for of_method in methods:
        for name, found in of_method.items():
            values.setdefault(name, []).append(found.value)
    return [one for one in measures if one.name in values and (one.shown_at_zero or any(values[one.name]))]


def measure_of(name: str, measures: tuple[Measure, ...]) -> Measure | None:
    """Return the measure that a value of this name belongs to; None for one that no task has named."""
    head = name.partition(".")[0]
    return next((measure for measure in measures if measure.name == head), None)
