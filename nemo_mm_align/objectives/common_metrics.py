"""What training tells of every recipe's micro batches, from what its objective reads: lengths, log-probs, distance, entropy.

Shapes: B rows, S positions, Q sequences of the micro batch, R of them with a role.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nemo_mm_align.datasets.sample import CHOSEN_OTHER_IMAGE, REJECTED
from nemo_mm_align.objectives.objective import Reading, Reads

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch

Sums = dict[str, tuple["Tensor", "Tensor"]]
"""Name -> (sum, weight), as `LossOutput.metrics` has them."""


def common_metrics(reads: Reads, reading: Reading, batch: Batch) -> Sums:
    """Return what can be told of a micro batch whose objective reads these; without gradients.

    docs/metrics.md has every name and formula.
    """
    lengths_Q = batch.sum_per_sequence((batch.labels_BS >= 0).float())
    found = _by_role("length_", lengths_Q, batch)
    if reads.token_losses:
        log_probs_Q = -batch.sum_per_sequence(reading.token_losses_BS.detach()).float()
        found |= _by_role("logps/", log_probs_Q, batch)
        if batch.reference_log_probs_Q is not None:
            found |= _distance(log_probs_Q - batch.reference_log_probs_Q.float(), lengths_Q, batch)
    if reads.distribution:
        right_Q = batch.sum_per_sequence(reading.right_BS)
        found["entropy"] = (reading.entropies_BS.sum(), lengths_Q.sum())
        found["mean_token_accuracy"] = (_to_learn(right_Q, batch), _to_learn(lengths_Q, batch))
    return found


def _distance(ratio_Q: Tensor, lengths_Q: Tensor, batch: Batch) -> Sums:
    """Log-ratios of policy and reference: estimator k1 of their KL divergence, on the data's answers instead of samples."""
    sequences = lengths_Q.new_full((), batch.num_sequences)
    return {
        "kl/token": (ratio_Q.sum(), lengths_Q.sum()),
        "kl/sequence": (ratio_Q.sum(), sequences),
        **_by_role("log_ratio/", ratio_Q, batch),
    }


def _by_role(prefix: str, values_Q: Tensor, batch: Batch) -> Sums:
    """Mean over the sequences of each role."""
    found = {}
    for role in batch.roles:
        values_R = batch.of_role(role, values_Q)
        found[prefix + role] = (values_R.sum(), values_R.new_full((), len(values_R)))
    return found


def _to_learn(values_Q: Tensor, batch: Batch) -> Tensor:
    """Sum over the sequences that are to become likelier: all but rejected ones, and those beside another image."""
    total = values_Q.sum()
    for role in (REJECTED, CHOSEN_OTHER_IMAGE):
        if role in batch.roles:
            total = total - batch.of_role(role, values_Q).sum()
    return total
