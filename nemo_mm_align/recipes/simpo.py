"""SimPO: mean log-probs as rewards, a margin to reach, no reference (Meng, Xia and Chen, arXiv 2405.14734)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nemo_mm_align.core.configuration import NotNegative
from nemo_mm_align.objectives.loss_menu import OneLoss, Smoothing
from nemo_mm_align.objectives.pair_losses import Simpo
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios
from nemo_mm_align.objectives.pair_metrics import nll_loss
from nemo_mm_align.recipes.pairs import pair_recipe

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SimplePreference(OneLoss):
    """See `Simpo`.

    Args:
        simpo_gamma: margin of rewards to reach.
        label_smoothing: share of pairs whose labels are wrong.
    """

    kind = Simpo
    per_token: ClassVar[bool] = True

    simpo_gamma: NotNegative
    label_smoothing: Smoothing

    def further_metrics(self, ratios: PairLogRatios) -> dict[str, Tensor]:
        """What TRL's CPO tells beside rewards."""
        return {"nll_loss": nll_loss(ratios)}


RECIPE = pair_recipe("simpo", "SimPO", SimplePreference, "#e377c2")
