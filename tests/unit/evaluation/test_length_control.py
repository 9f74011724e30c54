"""Judged differences at equal length, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.length_control import length_controlled, length_of, lines


def answers(values, words, groups=None) -> list[ScoredAnswer]:
    return [
        ScoredAnswer(
            prompt_id=f"p{n}", values={} if value is None else {"score": value}, num_words=count,
            group=groups[n] if groups else "",
        )
        for n, (value, count) in enumerate(zip(values, words, strict=True))
    ]  # fmt: skip


def test_the_intercept_by_hand() -> None:
    """Words differ by -10, 0, 10 (s = 10): x = -t, 0, t with t = tanh(1); judged differences are 1, 2, 6.

    The mean is 3, and so is the intercept, since x has mean 0; the slope is (t x 6 - t x 1) / (2 t^2) = 2.5 / t.
    """
    found = length_controlled(answers([2, 4, 9], [10, 20, 30]), answers([1, 2, 3], [20] * 3), "score")
    assert (found.difference, found.plain, found.n) == (pytest.approx(3), 3, 3)
    assert found.slope == pytest.approx(2.5 / math.tanh(1))


def test_what_length_explains_is_taken_out() -> None:
    """Every difference is 1 + 2 tanh(words / s): at equal length 1 is left, however much longer the answers are."""
    words = np.array([0, 10, 20, 30, 90])
    judged = 1 + 2 * np.tanh(words / words.std(ddof=1))
    found = length_controlled(answers(judged, words + 50), answers([0] * 5, [50] * 5), "score")
    assert found.plain > 1.9 and found.difference == pytest.approx(1) and found.slope == pytest.approx(2)
    assert found.interval.low == pytest.approx(1) and found.interval.over == "prompts"


def test_answers_of_equal_excess_keep_their_mean() -> None:
    found = length_controlled(answers([1, 2, 6], [30] * 3), answers([0] * 3, [20] * 3), "score")
    assert (found.difference, found.slope) == (3, 0)


def test_only_pairs_count_and_two_are_too_few() -> None:
    ours, base = answers([1, None, 3, 4, 5], range(5)), answers([1, 1, 1, None, 1], [2] * 5)
    found = length_controlled(ours, base, "score")
    assert found.n == 3 and found.plain == pytest.approx((0 + 2 + 4) / 3)
    assert length_controlled(ours[:3], base, "score") is None
    assert length_controlled(ours, base, "judged.verbosity") is None


def test_groups_are_drawn_together() -> None:
    """Two answers to each of 40 pictures, exact copies: drawn one by one the interval would be too narrow by root 2."""
    generator = np.random.default_rng(0)
    values, words = np.repeat(generator.normal(1, 1, 40), 2), np.repeat(generator.integers(5, 60, 40), 2)
    base = answers([0] * 80, [30] * 80)
    together = length_controlled(answers(values, words, [f"g{n // 2}" for n in range(80)]), base, "score").interval
    alone = length_controlled(answers(values, words), base, "score").interval
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(math.sqrt(2), rel=0.15)
    again = length_controlled(answers(values, words), base, "score").interval
    assert again == alone, "the seed decides"


def test_a_resample_is_the_line_through_what_was_drawn() -> None:
    generator = np.random.default_rng(3)
    difference, words = generator.normal(size=6), generator.integers(-20, 40, 6).astype(float)
    weights = np.array([2.0, 0, 1, 3, 0, 1])
    drawn = np.repeat(np.arange(6), weights.astype(int))
    length = length_of(words)
    assert length == pytest.approx(np.tanh(words / words.std(ddof=1)))
    slope, intercept = np.polyfit(length[drawn], difference[drawn], 1)
    found = lines(weights[None], difference, length)
    assert (found[0][0], found[1][0]) == (pytest.approx(intercept), pytest.approx(slope))
