"""Multi-objective DPO: what pairs do not say enters as a margin (Zhou et al., arXiv 2310.03708)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from nemo_mm_align.datasets.kinds import SCORED_PAIRS
from nemo_mm_align.objectives.loss_menu import OneLoss
from nemo_mm_align.objectives.margins import WithMargins
from nemo_mm_align.objectives.pair_losses import Modpo
from nemo_mm_align.objectives.preference import Preference
from nemo_mm_align.recipes.pairs import pair_recipe


@dataclass(frozen=True)
class MultiObjectivePreference(OneLoss, WithMargins, Preference):
    """See `Modpo`.

    Args:
        preference_weight: of the objective that the pairs are ordered by, beside `margin_weights` of the others.
    """

    kind = Modpo

    preference_weight: Annotated[float, Field(gt=0, le=1e6)]


RECIPE = pair_recipe(
    "modpo",
    "MODPO",
    MultiObjectivePreference,
    "#31a354",
    samples=SCORED_PAIRS,
    data="preference pairs with scores or ratings",
)
