"""Identity preference optimisation (Azar et al., arXiv 2310.12036)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nemo_mm_align.datasets.kinds import PAIRS
from nemo_mm_align.objectives.preference import PairLogRatios, Preference
from nemo_mm_align.recipes.spec import RecipeSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class IdentityPreference(Preference):
    """(log ratio of chosen - log ratio of rejected - 1 / (2 beta))^2, on means over an answer's tokens, as TRL computes it
    (equation 17, where beta is tau): the margin is drawn to a value of its own instead of growing without end."""

    per_token: ClassVar[bool] = True

    def pair_losses(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return (ratios.chosen_P - ratios.rejected_P - 1 / (2 * self.beta)).square()


RECIPE = RecipeSpec(
    name="ipo",
    label="IPO",
    objective=IdentityPreference,
    samples=PAIRS,
    build_method="preference",
    data="preference pairs",
    colour="#a6761d",
)
