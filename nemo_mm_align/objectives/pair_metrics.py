"""What training tells of pairs: rewards under TRL's names, and under those that earlier versions gave.

Shapes: P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nemo_mm_align.objectives.common_metrics import Sums
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios, known

if TYPE_CHECKING:
    from torch import Tensor

SATURATED = 0.01
"""Below this gradient weight a pair teaches nothing any more: a fiftieth of what it taught at the start."""


def saturated(weights_P: Tensor) -> Tensor:
    """Return 1 for each pair that teaches nothing any more, [P]."""
    return (weights_P < SATURATED).float()


def means(values: Mapping[str, Tensor]) -> Sums:
    """Means over pairs of numbers of each, [P]."""
    return {
        name: (values_P.sum().float(), values_P.new_full((), len(values_P)).float())
        for name, values_P in values.items()
    }


def reward_metrics(rewards: PairLogRatios, weight: Tensor) -> Sums:
    """Rewards, by how much the chosen answer has more, and how often it has more."""
    sums = {
        "chosen": rewards.chosen_P.sum(),
        "rejected": rewards.rejected_P.sum(),
        "margin": rewards.delta_P.sum(),
        "accuracy": (rewards.chosen_P > rewards.rejected_P).float().sum(),
    }
    plural = {"margin": "margins", "accuracy": "accuracies"}
    metrics = {name: (value.float(), weight) for name, value in sums.items()}
    earlier = {f"reward_{name}": pair for name, pair in metrics.items()}
    return earlier | {f"rewards/{plural.get(name, name)}": pair for name, pair in metrics.items()}


def by_length(rewards: PairLogRatios) -> Sums:
    """Accuracy apart for pairs whose chosen answer is the longer and the shorter one: a reward for length tells them apart."""
    assert rewards.chosen_lengths_P is not None and rewards.rejected_lengths_P is not None
    longer_P = rewards.chosen_lengths_P - rewards.rejected_lengths_P
    right_P = rewards.chosen_P > rewards.rejected_P
    return {
        f"rewards/accuracies_{name}": ((right_P & of_kind_P).float().sum(), of_kind_P.float().sum())
        for name, of_kind_P in (("longer", longer_P > 0), ("shorter", longer_P < 0))
    }


def nll_loss(ratios: PairLogRatios) -> Tensor:
    """-log p of chosen answers, a mean over their tokens, [P], where log-probs are such means."""
    return -known(ratios.chosen_log_probs_P, "log-probs of chosen answers")
