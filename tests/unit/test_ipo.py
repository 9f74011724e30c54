"""IPO against TRL's on the same log-probs, and its means over the tokens of an answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nemo_mm_align.objectives.objective import Reading
from nemo_mm_align.objectives.preference import PairLogRatios
from nemo_mm_align.recipes.registry import find_recipe
from tests.unit.test_losses import make_batch


def trl(beta: float, policy_Q: Tensor, reference_Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """TRL's losses and rewards, given what it divides by an answer's tokens beforehand."""
    from trl import DPOTrainer
    from trl.trainer.dpo_config import FDivergenceType

    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"), reference_free=False, f_divergence_type=FDivergenceType.REVERSE_KL,
        beta=beta, label_smoothing=0.0, f_divergence_params=None,
    )  # fmt: skip
    halves = (policy_Q[0::2], policy_Q[1::2], reference_Q[0::2], reference_Q[1::2])
    return DPOTrainer.dpo_loss(trainer, *halves, loss_type="ipo")


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_ipo_equals_trl(beta: float) -> None:
    torch.manual_seed(0)
    policy_Q, reference_Q = -3 * torch.rand(10, dtype=torch.float64), -3 * torch.rand(10, dtype=torch.float64)
    ratio_Q = policy_Q - reference_Q
    losses_P = find_recipe("ipo").configured(beta=beta).pair_losses(PairLogRatios(ratio_Q[0::2], ratio_Q[1::2]))
    torch.testing.assert_close(losses_P, trl(beta, policy_Q, reference_Q)[0], rtol=1e-12, atol=0)


def test_log_probs_are_means_over_tokens_in_both_row_shapes() -> None:
    """Chosen: two tokens, -2.5 nats, -3 under the reference; rejected: one of -3.5, -4 under the reference."""
    losses, rewards_chosen, _ = trl(0.1, torch.tensor([-1.25, -3.5]), torch.tensor([-1.5, -4.0]))
    rows = make_batch([[-100, 5, 6, -100], [-100, 7, -100, -100]], [[1, 1, 1, 1], [1, 1, 1, -1]], [-3.0, -4.0])
    packed = make_batch([[-100, 5, 6, 7, -100]], [[0, 1, 1, 2, -1]], [-3.0, -4.0])
    for batch, token_losses in (
        (rows, [[0.0, 1.0, 1.5, 0.0], [0.0, 3.5, 0.0, 0.0]]),
        (packed, [[0.0, 1.0, 1.5, 3.5, 0.0]]),
    ):
        reading = Reading(torch.tensor(token_losses, dtype=torch.float64))
        output = find_recipe("ipo").configured().loss(reading, batch)
        assert float(output.loss_sum) == pytest.approx(float(losses[0]), rel=1e-6) and int(output.count) == 1
        assert float(output.metrics["reward_chosen"][0]) == pytest.approx(float(rewards_chosen[0]), rel=1e-6)
        assert float(output.metrics["log_prob_chosen"][0]) == -2.5, "in the metrics they are sums, as in every recipe"
        weighted = find_recipe("ipo").configured(sft_loss_weight=0.5).loss(reading, batch)
        assert float(weighted.loss_sum - output.loss_sum) == pytest.approx(0.5 * 1.25, rel=1e-6)
