"""Losses on pairs of answers, by name: TRL's where TRL has the loss, else NeMo-Aligner's. One file per family.

`docs/losses.md` says when to take which.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from nemo_mm_align.objectives.pair_losses.answers import ApoDown, ApoZero, BcoPair, NcaPair, Sft
from nemo_mm_align.objectives.pair_losses.logistic import Discopop, ExoPair, Robust, Sigmoid, SigmoidNorm
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLoss
from nemo_mm_align.objectives.pair_losses.reference_free import OddsRatio, Simpo
from nemo_mm_align.objectives.pair_losses.rewards import Modpo, RpoBackward, RpoForward, RpoSquared
from nemo_mm_align.objectives.pair_losses.targets import Hinge, Ipo, SppoHard

LossName = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
    "sft",
]
"""Of ``loss_type``: those of TRL whose loss of a pair depends on that pair alone."""
MarginLossName = Literal["rpo_sq", "rpo_fwd_kl", "rpo_bwd_kl", LossName]
"""The same where pairs have margins of rewards."""

_KINDS: tuple[type[PairLoss], ...] = (
    *(Sigmoid, SigmoidNorm, Robust, ExoPair, Discopop),
    *(Hinge, Ipo, SppoHard),
    *(ApoZero, ApoDown, NcaPair, BcoPair, Sft),
    *(RpoSquared, RpoBackward, RpoForward, Modpo),
    *(Simpo, OddsRatio),
)
PAIR_LOSSES: Mapping[str, type[PairLoss]] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""All of them by name."""
