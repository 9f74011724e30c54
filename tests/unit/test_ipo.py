"""IPO's means over the tokens of an answer; tests/unit/test_trl_parity.py has it against TRL."""

from __future__ import annotations

import pytest
import torch

from nemo_mm_align.objectives.objective import Reading
from nemo_mm_align.recipes.registry import find_recipe
from tests.unit.test_losses import make_batch


def test_log_probs_are_means_over_tokens_in_both_row_shapes() -> None:
    """Chosen: two tokens, -2.5 nats, -3 under the reference; rejected: one of -3.5, -4 under the reference.

    Log-ratios are 0.25 and 0.5 per token, the margin is drawn from -0.25 to 1 / (2 beta) = 5.
    """
    rows = make_batch([[-100, 5, 6, -100], [-100, 7, -100, -100]], [[1, 1, 1, 1], [1, 1, 1, -1]], [-3.0, -4.0])
    packed = make_batch([[-100, 5, 6, 7, -100]], [[0, 1, 1, 2, -1]], [-3.0, -4.0])
    for batch, token_losses in (
        (rows, [[0.0, 1.0, 1.5, 0.0], [0.0, 3.5, 0.0, 0.0]]),
        (packed, [[0.0, 1.0, 1.5, 3.5, 0.0]]),
    ):
        reading = Reading(torch.tensor(token_losses, dtype=torch.float64))
        output = find_recipe("ipo").configured().loss(reading, batch)
        assert float(output.loss_sum) == pytest.approx(5.25**2, rel=1e-6) and int(output.count) == 1
        assert float(output.metrics["reward_chosen"][0]) == pytest.approx(0.1 * 0.25, rel=1e-6)
        assert float(output.metrics["log_prob_chosen"][0]) == -2.5, "in the metrics they are sums, as in every recipe"
        weighted = find_recipe("ipo").configured(sft_loss_weight=0.5).loss(reading, batch)
        assert float(weighted.loss_sum - output.loss_sum) == pytest.approx(0.5 * 1.25, rel=1e-6)
