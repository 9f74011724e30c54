"""Ridge regression per attribute: scikit-learn's weights, missing values, alphas chosen over prompts."""

from __future__ import annotations

import numpy as np
import pytest

from nemo_mm_align.inference.ridge import fit_ridge


def data(answers: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((answers, width)) + 3
    targets = features[:, :2] @ np.array([[1.0, 0.5], [-2.0, 0.0]]) + generator.standard_normal((answers, 2)) + 7
    return features, targets, np.arange(answers) // 3


@pytest.mark.parametrize(("answers", "width"), [(60, 8), (30, 50)], ids=["more answers", "more features"])
@pytest.mark.parametrize("alpha", [1e-2, 10.0])
def test_weights_are_those_of_scikit_learn(answers: int, width: int, alpha: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, targets, prompts = data(answers, width)
    found = fit_ridge(features, targets, prompts, [alpha])
    theirs = linear_model.Ridge(alpha=alpha).fit(features, targets)
    np.testing.assert_allclose(found.weights_HT, theirs.coef_.T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.predict(features[:5]), theirs.predict(features[:5]), rtol=1e-10)


def test_it_is_least_squares_on_the_rows_that_the_penalty_adds() -> None:
    features, targets, prompts = data(40, 6)
    found = fit_ridge(features, targets, prompts, [4.0])
    centred = features - features.mean(0), targets - targets.mean(0)
    rows = np.vstack([centred[0], 2.0 * np.eye(6)]), np.vstack([centred[1], np.zeros((6, 2))])
    np.testing.assert_allclose(found.weights_HT, np.linalg.lstsq(*rows)[0], rtol=1e-10)


def test_a_missing_value_leaves_its_answer_out_of_that_attribute_alone() -> None:
    features, targets, prompts = data(60, 8)
    partial = targets.copy()
    partial[::4, 1] = np.nan
    found, whole = fit_ridge(features, partial, prompts, [1.0]), fit_ridge(features, targets, prompts, [1.0])
    np.testing.assert_allclose(found.weights_HT[:, 0], whole.weights_HT[:, 0], rtol=1e-10)
    kept = np.arange(60) % 4 != 0
    alone = fit_ridge(features[kept], targets[kept], prompts[kept], [1.0])
    np.testing.assert_allclose(found.weights_HT[:, 1], alone.weights_HT[:, 1], rtol=1e-12)
    with pytest.raises(ValueError, match=r"attributes number \[1\]"):
        fit_ridge(features, np.column_stack([targets[:, 0], np.full(60, np.nan)]), prompts)


def test_alpha_is_chosen_for_each_attribute_over_prompts_it_was_not_fitted_on() -> None:
    generator = np.random.default_rng(1)
    prompts = np.repeat(np.arange(40), 4)
    identity = generator.standard_normal((40, 60))[prompts]  # tells the prompt and nothing else
    noise = generator.standard_normal(40)[prompts]
    features = np.column_stack([identity, generator.standard_normal(160)])
    targets = np.column_stack([noise, 5 * features[:, -1]])
    found = fit_ridge(features, targets, prompts, [1e-4, 1e4])
    assert found.alpha_T.tolist() == [1e4, 1e-4], "what only tells prompts apart helps with none that is new"
    again = fit_ridge(features, targets, prompts, [1e-4, 1e4])
    np.testing.assert_array_equal(again.weights_HT, found.weights_HT)
    assert 0 < found.error_T[1] < found.error_T[0]


def test_a_single_prompt_takes_the_strongest_alpha() -> None:
    features, targets, _ = data(4, 3)
    found = fit_ridge(features, targets, np.zeros(4, int))
    assert found.alpha_T.tolist() == [1e4, 1e4] and np.isnan(found.error_T).all()
    np.testing.assert_allclose(found.predict(features).mean(0), targets.mean(0))
