"""Identity preference optimisation (Azar et al., arXiv 2310.12036)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nemo_mm_align.objectives.loss_menu import OneLoss
from nemo_mm_align.objectives.pair_losses import Ipo
from nemo_mm_align.objectives.preference import Preference
from nemo_mm_align.recipes.pairs import pair_recipe


@dataclass(frozen=True)
class IdentityPreference(OneLoss, Preference):
    """See `Ipo`."""

    kind = Ipo
    per_token: ClassVar[bool] = True


RECIPE = pair_recipe("ipo", "IPO", IdentityPreference, "#a6761d")
