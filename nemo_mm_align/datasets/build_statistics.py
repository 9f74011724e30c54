"""Scores and lengths of what a builder writes, collected one example at a time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from nemo_mm_align.core.running_mean import Mean
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import RatedAnswers

NOTICEABLE = 3.0
"""Standard errors by which a share must differ from one half to be no accident."""


@dataclass
class Distribution(Mean):
    """Mean, standard deviation, ends and histogram of a quantity.

    Args:
        low: lower end of the histogram.
        width: of a bin; None for no histogram.
    """

    low: float = 0.0
    width: float | None = None
    minimum: float = math.inf
    maximum: float = -math.inf
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, value: float) -> None:
        """Count a value."""
        super().add(value)
        self.minimum, self.maximum = min(self.minimum, value), max(self.maximum, value)
        if self.width:
            self.bins[math.floor((value - self.low) / self.width + 1e-9)] += 1

    @property
    def deviation(self) -> float:
        """Standard deviation of the values themselves."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def content(self) -> dict[str, Any]:
        """Return the figures for the summary's file; bins by their lower end."""
        if not self.count:
            return {"count": 0}
        figures = {"count": self.count, "mean": self.mean, "deviation": self.deviation}
        figures |= {"minimum": self.minimum, "maximum": self.maximum}
        if not self.width:
            return figures
        width = self.width
        return figures | {"bins": {f"{self.low + place * width:g}": n for place, n in sorted(self.bins.items())}}


def score_distribution(schema: AttributeSchema) -> Distribution:
    """Return an empty distribution of scores, with a histogram where the schema has a score."""
    low, bins = schema.worst_total, schema.score_bins
    width = (schema.perfect_total - low) / bins if bins else 1.0
    return Distribution(low=low, width=width if schema.score else None)


@dataclass
class SideStatistics:
    """Scores and lengths (characters) of the answers on one side: ``chosen``, ``desirable``, ...; or the only one."""

    scores: Distribution
    lengths: Distribution = field(default_factory=Distribution)

    @property
    def count(self) -> int:
        """Answers."""
        return self.lengths.count

    def add(self, text: str, score: float | None) -> None:
        """Count an answer."""
        self.lengths.add(len(text))
        if score is not None:
            self.scores.add(score)

    def content(self) -> dict[str, Any]:
        """Return the figures for the summary's file."""
        return {"score": self.scores.content(), "characters": self.lengths.content()}

    def line(self) -> str:
        """Return the figures in words."""
        text = f"{self.lengths.mean:.0f} characters"
        if self.scores.count:
            text = f"score {self.scores.mean:.2f} (standard deviation {self.scores.deviation:.2f}), {text}"
        return text


@dataclass
class RatingStatistics:
    """Values of rated answers, attribute by attribute, and how many answers lack one."""

    answers: int = 0
    values: dict[str, Distribution] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    lengths: Distribution = field(default_factory=Distribution)

    def add(self, example: RatedAnswers, schema: AttributeSchema) -> None:
        """Count the answers of a prompt."""
        for answer in example.answers:
            self.answers += 1
            self.lengths.add(len(answer.text))
            for name in schema.names:
                if name in answer.attributes:
                    self.values.setdefault(name, Distribution()).add(answer.attributes[name])
                else:
                    self.missing[name] += 1

    def content(self) -> dict[str, Any]:
        """Return the figures for the summary's file."""
        values = {name: item.content() | {"missing": self.missing[name]} for name, item in self.values.items()}
        return {"answers": self.answers, "characters": self.lengths.content(), "attributes": values}

    def lines(self) -> list[str]:
        """Return the figures in words, a line per attribute."""
        return [
            f"{name}: mean {item.mean:.2f} (standard deviation {item.deviation:.2f}) of {item.count:,} answers"
            + (f", missing from {self.missing[name]:,}" if self.missing[name] else "")
            for name, item in self.values.items()
        ]


@dataclass
class LengthBias:
    """In how many pairs the longer answer is the chosen one."""

    longer: int = 0
    shorter: int = 0
    pairs: int = 0

    def add(self, chosen: str, rejected: str) -> None:
        """Count a pair."""
        self.pairs += 1
        self.longer += len(chosen) > len(rejected)
        self.shorter += len(chosen) < len(rejected)

    def warning(self, limit: float) -> str | None:
        """Return what is wrong where length alone tells chosen from rejected in more than `limit` of the pairs."""
        unequal = self.longer + self.shorter
        if not unequal:
            return None
        share = max(self.longer, self.shorter) / unequal
        if share <= limit or share - 0.5 <= NOTICEABLE * 0.5 / math.sqrt(unequal):
            return None
        word = "longer" if self.longer > self.shorter else "shorter"
        return (
            f"the chosen answer is the {word} one in {share:.0%} of the pairs of unequal length (length_bias={limit:g}): "
            "a model can win by length alone. Compare lengths after training, or balance the candidates."
        )

    def content(self) -> dict[str, int]:
        """Return the counts for the summary's file."""
        return {
            "chosen_longer": self.longer,
            "chosen_shorter": self.shorter,
            "equal": self.pairs - self.longer - self.shorter,
        }
