"""Robust DPO, for labels of which a known share is wrong (Ray Chowdhury, Kini and Natarajan, arXiv 2403.00409)."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.objectives.loss_menu import OneLoss, Smoothing
from nemo_mm_align.objectives.pair_losses import Robust
from nemo_mm_align.objectives.preference import Preference
from nemo_mm_align.recipes.pairs import pair_recipe


@dataclass(frozen=True)
class RobustPreference(OneLoss, Preference):
    """See `Robust`."""

    kind = Robust

    label_smoothing: Smoothing


RECIPE = pair_recipe("robust", "Robust DPO", RobustPreference, "#17becf")
