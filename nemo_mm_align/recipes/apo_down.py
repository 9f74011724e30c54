"""Anchored preference optimisation, for chosen answers worse than the model's own (D'Oosterlinck et al., arXiv 2408.06266)."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.objectives.loss_menu import OneLoss
from nemo_mm_align.objectives.pair_losses import ApoDown
from nemo_mm_align.objectives.preference import Preference
from nemo_mm_align.recipes.pairs import pair_recipe


@dataclass(frozen=True)
class AnchoredDown(OneLoss, Preference):
    """See `ApoDown`."""

    kind = ApoDown


RECIPE = pair_recipe("apo_down", "APO-down", AnchoredDown, "#c49c94")
