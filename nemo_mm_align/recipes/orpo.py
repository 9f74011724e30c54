"""ORPO: likelihood of chosen answers, their odds against rejected ones, no reference (Hong, Lee, Thorne, arXiv 2403.07691)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nemo_mm_align.objectives.loss_menu import OneLoss
from nemo_mm_align.objectives.pair_losses import OddsRatio
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios
from nemo_mm_align.objectives.pair_losses.reference_free import log_odds_ratio
from nemo_mm_align.objectives.pair_metrics import nll_loss
from nemo_mm_align.recipes.pairs import pair_recipe

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OddsRatioPreference(OneLoss):
    """-log p(chosen) / n times `sft_loss_weight`, plus `OddsRatio`.

    TRL takes the likelihood of prompt and answer together, a mean over the tokens of a micro batch; this is the paper's, of the
    answer alone, a mean of each.
    """

    kind = OddsRatio
    per_token: ClassVar[bool] = True

    def further_metrics(self, ratios: PairLogRatios) -> dict[str, Tensor]:
        """What TRL tells beside rewards."""
        import torch.nn.functional as F

        odds_P = log_odds_ratio(ratios)
        return {"nll_loss": nll_loss(ratios), "log_odds_chosen": odds_P, "log_odds_ratio": F.logsigmoid(odds_P)}


RECIPE = pair_recipe("orpo", "ORPO", OddsRatioPreference, "#fd8d3c")
