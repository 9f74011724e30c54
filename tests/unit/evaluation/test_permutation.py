from itertools import product

import numpy as np
import pytest

from nemo_mm_align.evaluation.permutation import bootstrap_p_value, comparisons, holm, sign_flip_p_values


def test_few_groups_are_flipped_in_every_way():
    columns = np.array([[1.0, 3.0], [2.0, -1.0], [0.5, 0.0], [0.0, 0.0]])
    by_hand = [
        np.mean([abs(np.dot(signs, column)) >= abs(column.sum()) for signs in product((1, -1), repeat=4)])
        for column in columns.T
    ]
    assert sign_flip_p_values(columns) == by_hand == [0.25, 1.0]


def test_nothing_differs():
    assert sign_flip_p_values(np.zeros((5, 1))) == [1.0]


def test_of_many_groups_random_flips_come_close_to_the_binomial_test():
    """Differences of +1 and -1: the sum of flipped signs is binomial, 40 of 60 positive."""
    differences = np.array([1.0] * 40 + [-1.0] * 20)[:, None]
    (found,) = sign_flip_p_values(differences)
    assert found == pytest.approx(0.01347, abs=0.004)  # scipy.stats.binomtest(40, 60).pvalue
    assert sign_flip_p_values(differences) == [found] != sign_flip_p_values(differences, seed=1)


def test_the_smallest_p_value_counts_the_observed_flip():
    assert sign_flip_p_values(np.ones((200, 1)), permutations=999) == [1 / 1000]


def test_rounding_does_not_part_equal_sums():
    column = np.array([0.1, 0.2, 0.3, -0.3, -0.2, 0.7])[:, None]
    assert sign_flip_p_values(column) == sign_flip_p_values(np.round(column * 10))


def test_a_column_with_few_differences_is_exact_beside_one_with_many():
    columns = np.zeros((50, 2))
    columns[:, 0], columns[:3, 1] = 1.0, 1.0
    many, few = sign_flip_p_values(columns, permutations=99)
    assert (many, few) == (0.01, 0.25)


def test_resamples_on_the_other_side():
    assert bootstrap_p_value(np.array([1.0] * 97 + [-1.0, -1.0]), 50) == pytest.approx(2 * 3 / 100)
    assert bootstrap_p_value(np.array([1.0, -1.0]), 50) == 1
    assert bootstrap_p_value(np.array([np.nan]), 50) is None
    assert bootstrap_p_value(np.ones(999), 3) == 1 / 4, "as of three groups whose signs are flipped"


def test_holm_by_hand():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0} and holm({}) == {}


def test_comparisons_are_counted_in_words():
    assert [comparisons(1), comparisons(6)] == ["corrected for 1 comparison", "corrected for 6 comparisons"]
