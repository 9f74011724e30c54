"""Metrics of a micro batch, worked out by hand: what every recipe tells, and what recipes on pairs tell beside it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.sample import ANSWER, CHOSEN, REJECTED
from nemo_mm_align.objectives.common_metrics import Sums, common_metrics
from nemo_mm_align.objectives.objective import Reading, Reads
from nemo_mm_align.objectives.preference import PairLogRatios
from nemo_mm_align.recipes.registry import find_recipe

EVERYTHING = Reads(token_losses=True, distribution=True)
LOSSES_BS = torch.tensor([[0.0, 1.0, 1.5, 0.0], [0.0, 3.5, 0.0, 0.0]])
ENTROPIES_BS = torch.tensor([[0.0, 0.5, 1.0, 0.0], [0.0, 3.0, 0.0, 0.0]])
RIGHT_BS = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
READING = Reading(LOSSES_BS, entropies_BS=ENTROPIES_BS, right_BS=RIGHT_BS)


def pair(references: list[float] | None) -> Batch:
    """A chosen answer of two tokens and a rejected one of one token."""
    labels_BS = torch.tensor([[-100, 5, 6, -100], [-100, 7, -100, -100]])
    return Batch(
        input_ids_BS=torch.zeros_like(labels_BS),
        labels_BS=labels_BS,
        position_ids_BS=torch.zeros_like(labels_BS),
        segment_ids_BS=torch.tensor([[1, 1, 1, 1], [1, 1, 1, -1]]),
        images_NCHW=None,
        image_index_K=None,
        sample_ids=("a",),
        reference_log_probs_Q=None if references is None else torch.tensor(references),
        roles={CHOSEN: torch.tensor([0]), REJECTED: torch.tensor([1])},
    )


def means(sums: Sums) -> dict[str, float]:
    return {name: float(total) / float(weight) for name, (total, weight) in sums.items() if weight}


def test_a_pair_with_its_reference() -> None:
    # log-probs -2.5 and -3.5; log-ratios 0.5 and 0.7 over 2 and 1 tokens
    assert means(common_metrics(EVERYTHING, READING, pair([-3.0, -4.2]))) == pytest.approx(
        {
            "length_chosen": 2, "length_rejected": 1, "logps/chosen": -2.5, "logps/rejected": -3.5,
            "log_ratio/chosen": 0.5, "log_ratio/rejected": 0.7, "kl/token": 1.2 / 3, "kl/sequence": 0.6,
            "entropy": 4.5 / 3, "mean_token_accuracy": 0.5,  # of the chosen answer's two tokens one is the likeliest
        }
    )  # fmt: skip


def test_single_answers_have_no_reference_and_all_count() -> None:
    batch = replace(pair(None), roles={ANSWER: torch.tensor([0, 1])})
    assert means(common_metrics(EVERYTHING, READING, batch)) == pytest.approx(
        {"length_answer": 1.5, "logps/answer": -3.0, "entropy": 1.5, "mean_token_accuracy": 2 / 3}
    )


def test_an_objective_on_hidden_states_alone_still_tells_lengths() -> None:
    found = common_metrics(Reads(hidden="last"), Reading(), pair(None))
    assert means(found) == {"length_chosen": 2, "length_rejected": 1}


def test_rewards_under_both_names_and_by_length() -> None:
    metrics = means(find_recipe("dpo").configured(beta=0.1).loss(Reading(LOSSES_BS), pair([-3.0, -4.2])).metrics)
    expected = {"chosen": 0.05, "rejected": 0.07, "margin": -0.02, "accuracy": 0.0}
    assert {name: metrics[f"reward_{name}"] for name in expected} == pytest.approx(expected, abs=1e-7)
    trl = [metrics[f"rewards/{name}"] for name in ("chosen", "rejected", "margins", "accuracies")]
    assert trl == pytest.approx(list(expected.values()), abs=1e-7)
    assert metrics["rewards/accuracies_longer"] == 0, "the chosen answer is the longer one, and ranked second"
    assert "rewards/accuracies_shorter" not in metrics and metrics["saturated"] == 0


def test_a_pair_is_saturated_where_its_gradient_weight_falls_below_a_hundredth() -> None:
    dpo, ipo = (find_recipe(name).configured(beta=0.1) for name in ("dpo", "ipo"))
    margins_P = torch.tensor([0.0, 45.9, 46.1, -100.0])  # sigmoid(-4.595) is 0.01
    weights_P = dpo.gradient_weights(PairLogRatios(margins_P, torch.zeros(4)))
    assert weights_P.tolist() == pytest.approx([1 / (1 + math.exp(0.1 * m)) for m in margins_P.tolist()], rel=1e-5)
    assert (weights_P < 0.01).tolist() == [False, False, True, False]
    # IPO draws margins to 1 / (2 beta) = 5: nothing is learned there, as much again beyond it as at 0
    found_P = ipo.gradient_weights(PairLogRatios(torch.tensor([0.0, 4.95, 5.0, 10.0]), torch.zeros(4)))
    assert found_P.tolist() == pytest.approx([0.5, 0.005, 0.0, 0.5], abs=1e-6)
