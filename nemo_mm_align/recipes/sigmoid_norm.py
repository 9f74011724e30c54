"""Length-normalised DPO: means over an answer's tokens in place of sums (as in Tulu 3, Lambert et al., arXiv 2411.15124)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nemo_mm_align.objectives.loss_menu import OneLoss
from nemo_mm_align.objectives.pair_losses import SigmoidNorm
from nemo_mm_align.objectives.preference import Preference
from nemo_mm_align.recipes.pairs import pair_recipe


@dataclass(frozen=True)
class NormalisedPreference(OneLoss, Preference):
    """See `SigmoidNorm`."""

    kind = SigmoidNorm
    per_token: ClassVar[bool] = True


RECIPE = pair_recipe("sigmoid_norm", "DPO by tokens", NormalisedPreference, "#bcbd22")
