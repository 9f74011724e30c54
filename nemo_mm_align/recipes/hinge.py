"""Hinge loss on the margin (SLiC-HF, Zhao et al., arXiv 2305.10425)."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.objectives.loss_menu import OneLoss
from nemo_mm_align.objectives.pair_losses import Hinge
from nemo_mm_align.objectives.preference import Preference
from nemo_mm_align.recipes.pairs import pair_recipe


@dataclass(frozen=True)
class HingePreference(OneLoss, Preference):
    """See `Hinge`."""

    kind = Hinge


RECIPE = pair_recipe("hinge", "Hinge", HingePreference, "#8c564b")
