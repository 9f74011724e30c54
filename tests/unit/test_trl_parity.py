"""Our losses against TRL's trainers as they are installed: on one model and its rows the same losses, gradients and metrics.

TRL divides the sft term by a micro batch's tokens, so that it depends on how a step is divided; ours is a mean over pairs. Where
it takes part, one pair at a time is compared, for which both are the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_mm_align.datasets.sample import CHOSEN, REJECTED
from nemo_mm_align.objectives.objective import Objective
from nemo_mm_align.recipes.registry import find_recipe
from tests.float64 import TOLERANCE, Float64
from tests.trl_trainers import PAIRS, Rows, collated, gradient, make_trainer, our_loss, pair_rows, relative

pytest.importorskip("trl", minversion="1.0")
REWARDS = {"rewards/chosen", "rewards/rejected", "rewards/margins"}
LOGPS = {"logps/chosen", "logps/rejected"}
PAIR_METRICS = REWARDS | LOGPS | {"rewards/accuracies", "entropy", "mean_token_accuracy"}

LOSSES: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "hinge": {"beta": 0.3},  # margins on both sides of 1 / beta
    "ipo": {},
    "exo_pair": {"label_smoothing": 0.1},
    "nca_pair": {},
    "robust": {"label_smoothing": 0.2},
    "bco_pair": {},
    "sppo_hard": {},
    "apo_zero": {},
    "apo_down": {},
    "discopop": {"discopop_tau": 0.1},
    "sigmoid_norm": {"beta": 2.0},
}
MIXTURES = {
    "two": (["hinge", "apo_zero"], None),
    "weighted": (["sigmoid", "ipo", "bco_pair"], [0.8, 0.5, 0.2]),
    "mpo": (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]),
}


def compare(
    loss: Tensor, metrics: dict[str, float], expected: Tensor, told: dict[str, float], model: Any, names: set[str]
) -> None:
    """The same loss, the same gradient of every parameter, the same metrics."""
    assert relative(loss, expected) < TOLERANCE
    theirs = gradient(expected, model)
    assert theirs.abs().max() > 1e-3 and relative(gradient(loss, model), theirs) < TOLERANCE
    assert {name: metrics[name] for name in names} == pytest.approx({name: told[name] for name in names}, rel=TOLERANCE)


def dpo_trainer(folder: Path, pairs: Any, **settings: Any) -> Any:
    from trl import DPOConfig, DPOTrainer

    return make_trainer(DPOTrainer, DPOConfig, pair_rows(pairs), folder, **settings)


def check_dpo(objective: Objective, trainer: Any) -> None:
    """One of our objectives on pairs against a DPOTrainer."""
    inputs = collated(trainer)
    expected = trainer.compute_loss(trainer.model, dict(inputs))
    told = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    rows = Rows(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"])
    loss, metrics = our_loss(objective, rows.reading(trainer.model), rows.pairs(trainer.ref_model))
    compare(loss, metrics, expected, told, trainer.model, PAIR_METRICS)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses_on_pairs(loss_type: str, tmp_path: Path) -> None:
    settings = {"loss_type": [loss_type], "beta": 0.3, **LOSSES[loss_type]}
    ours = find_recipe("dpo").configured(**settings)
    with Float64():
        check_dpo(ours, dpo_trainer(tmp_path, PAIRS, **settings))


@pytest.mark.parametrize("mixture", MIXTURES)
def test_weighted_sums(mixture: str, tmp_path: Path) -> None:
    names, weights = MIXTURES[mixture]
    settings = {"loss_type": names, "loss_weights": weights, "beta": 0.3}
    with Float64():
        for pairs in [PAIRS[:1], PAIRS[1:2]] if "sft" in names else [PAIRS]:
            check_dpo(find_recipe("dpo").configured(**settings), dpo_trainer(tmp_path, pairs, **settings))


def test_cdpo_is_trls_aot_on_one_pair(tmp_path: Path) -> None:
    """TRL's sigmoid has no label smoothing since 1.0. Its aot has, and sorts pairs, which does nothing to one."""
    settings = {"beta": 0.3, "label_smoothing": 0.2}
    with Float64():
        for pair in PAIRS:
            trainer = dpo_trainer(tmp_path, [pair], loss_type=["aot"], **settings)
            check_dpo(find_recipe("dpo").configured(loss_type="sigmoid", **settings), trainer)


def cpo_trainer(folder: Path, pairs: Any, **settings: Any) -> Any:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return make_trainer(CPOTrainer, CPOConfig, pair_rows(pairs), folder, **settings)


def orpo_trainer(folder: Path, pairs: Any, **settings: Any) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return make_trainer(ORPOTrainer, ORPOConfig, pair_rows(pairs), folder, **settings)


def check_without_reference(objective: Objective, trainer: Any, names: set[str]) -> None:
    """One of our objectives against a CPOTrainer or ORPOTrainer, which tell means over tokens as ``logps``."""
    inputs = collated(trainer)
    expected = trainer.compute_loss(trainer.model, dict(inputs))
    told = {name: values[-1] for name, values in trainer._stored_metrics["train"].items()}
    whole = trainer.concatenated_inputs(inputs, padding_value=0)
    answer_BS = (whole["concatenated_labels"] >= 0).long()
    rows = Rows(whole["concatenated_input_ids"], whole["concatenated_attention_mask"], answer_BS)
    loss, metrics = our_loss(objective, rows.reading(trainer.model), rows.pairs())
    compare(loss, metrics, expected, told, trainer.model, names)


@pytest.mark.parametrize("settings", [{}, {"simpo_gamma": 1.2, "label_smoothing": 0.1}])
def test_simpo(settings: dict[str, Any], tmp_path: Path) -> None:
    ours = find_recipe("simpo").configured(beta=2.0, **settings)
    with Float64():
        trainer = cpo_trainer(tmp_path, PAIRS, loss_type="simpo", cpo_alpha=0.0, beta=2.0, **settings)
        check_without_reference(ours, trainer, REWARDS | {"rewards/accuracies"})


def test_simpo_with_trls_cpo_alpha(tmp_path: Path) -> None:
    ours = find_recipe("simpo").configured(beta=2.0, sft_loss_weight=0.7)
    with Float64():
        for pair in PAIRS[:2]:
            trainer = cpo_trainer(tmp_path, [pair], loss_type="simpo", cpo_alpha=0.7, beta=2.0)
            check_without_reference(ours, trainer, REWARDS)


def test_orpo(tmp_path: Path) -> None:
    """TRL's likelihood of chosen answers counts the tokens of prompts as well: these here have none but the first, for that."""
    ours = find_recipe("orpo").configured(beta=0.4)
    with Float64():
        for _, *answers in PAIRS[:3]:
            trainer = orpo_trainer(tmp_path, [("", *answers)], beta=0.4)
            check_without_reference(ours, trainer, REWARDS | {"log_odds_ratio", "log_odds_chosen", "nll_loss"})


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_labelled_answers(loss_type: str, tmp_path: Path) -> None:
    from trl import KTOConfig, KTOTrainer

    settings = {"loss_type": loss_type, "beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.8}
    records = [
        {"prompt": prompt, "completion": answer, "label": label}
        for prompt, *answers in PAIRS
        for answer, label in zip(answers, (True, False), strict=True)
    ]
    with Float64():
        trainer = make_trainer(KTOTrainer, KTOConfig, records[:7], tmp_path, seeds=(1, 0), **settings)
        inputs = collated(trainer)
        expected = trainer.compute_loss(trainer.model, dict(inputs))
        told = {name: values[-1] for name, values in trainer._metrics["train"].items()}
        assert loss_type != "kto" or told["kl"] > 0.1, "the reference point is not the one that nothing falls below"
        objective, batch, reading = _labelled(inputs, trainer, settings)
        loss, metrics = our_loss(objective, reading, batch)
        metrics |= objective.derived(metrics)
        names = REWARDS | LOGPS | {"entropy"} | ({"kl"} if loss_type == "kto" else set())
        compare(loss, metrics, expected, told, trainer.model, names)


def _labelled(inputs: dict[str, Tensor], trainer: Any, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Our objective, batch (with its reference point) and reading of what a KTOTrainer collated."""
    objective: Any = find_recipe("kto").configured(**settings)
    roles = {CHOSEN: inputs["label"].nonzero().squeeze(1), REJECTED: (~inputs["label"]).nonzero().squeeze(1)}
    rows = Rows(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"])
    batch = rows.batch(roles, trainer.ref_model)
    if objective.has_point:
        others = Rows(*(inputs[f"KL_{name}"] for name in ("input_ids", "attention_mask", "completion_mask")))
        with torch.no_grad():
            total, count = objective.point(others.reading(trainer.model), others.batch({}, trainer.ref_model))
        batch = replace(batch, point=total / count)
    return objective, batch, rows.reading(trainer.model)
