"""How losses are summed and counted; tests/unit/test_trl_parity.py has them against TRL."""

from __future__ import annotations

import math

import pytest
import torch

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED
from nemo_mm_align.objectives.objective import LossOutput, Reading
from nemo_mm_align.recipes.registry import find_recipe


def make_batch(labels: list[list[int]], segments: list[list[int]], references: list[float] | None = None) -> Batch:
    labels_BS = torch.tensor(labels)
    return Batch(
        input_ids_BS=torch.zeros_like(labels_BS),
        labels_BS=labels_BS,
        position_ids_BS=torch.zeros_like(labels_BS),
        segment_ids_BS=torch.tensor(segments),
        images_NCHW=None,
        image_index_K=None,
        sample_ids=("a",),
        reference_log_probs_Q=None if references is None else torch.tensor(references, dtype=torch.float64),
        roles={CHOSEN: torch.tensor([0]), REJECTED: torch.tensor([1])},
    )


def preference_loss(token_losses_BS: torch.Tensor, batch: Batch, **settings: float) -> LossOutput:
    return find_recipe("dpo").configured(**settings).loss(Reading(token_losses_BS), batch)


def test_preference_loss_sums_tokens_per_sequence_in_both_row_shapes() -> None:
    references = [-3.0, -4.0]
    rows = make_batch([[-100, 5, 6, -100], [-100, 7, -100, -100]], [[1, 1, 1, 1], [1, 1, 1, -1]], references)
    losses = torch.tensor([[0.0, 1.0, 1.5, 0.0], [0.0, 3.5, 0.0, 0.0]], dtype=torch.float64)
    packed = make_batch([[-100, 5, 6, 7, -100]], [[0, 1, 1, 2, -1]], references)
    packed_losses = torch.tensor([[0.0, 1.0, 1.5, 3.5, 0.0]], dtype=torch.float64)
    separate = preference_loss(losses, rows, beta=0.1, sft_loss_weight=0.5)
    together = preference_loss(packed_losses, packed, beta=0.1, sft_loss_weight=0.5)
    margin = 0.1 * ((-2.5 - -3.0) - (-3.5 - -4.0))
    expected = math.log1p(math.exp(-margin)) + 0.5 * 2.5
    for output in (separate, together):
        assert float(output.loss_sum) == pytest.approx(expected, rel=1e-12)
        assert int(output.count) == 1
        assert float(output.metrics["log_prob_chosen"][0]) == -2.5
        assert float(output.metrics["length_rejected"][0]) == 1


def test_preference_loss_refuses_a_batch_without_references() -> None:
    with pytest.raises(ValueError, match="no reference log-probs"):
        preference_loss(torch.zeros(2, 3), make_batch([[1, -100, -100]] * 2, [[1, 1, 1]] * 2), beta=0.1)


def test_imitation_counts_answer_tokens() -> None:
    batch = make_batch([[-100, 3, 4], [5, -100, -100]], [[1, 1, 1], [1, 1, -1]])
    token_losses_BS = torch.tensor([[0.0, 1.0, 2.0], [4.0, 0.0, 0.0]])
    output = find_recipe("sft").configured().loss(Reading(token_losses_BS), batch)
    assert (float(output.loss_sum), int(output.count)) == (7.0, 3)
