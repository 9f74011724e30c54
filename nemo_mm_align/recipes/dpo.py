"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_mm_align.datasets.kinds import PAIRS
from nemo_mm_align.objectives.preference import PairLogRatios, Preference
from nemo_mm_align.recipes.spec import RecipeSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DirectPreference(Preference):
    """-log sigmoid(beta * (log ratio of chosen - log ratio of rejected)), on summed log-probs (equation 7)."""

    def pair_losses(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        import torch.nn.functional as F

        return -F.logsigmoid(self.beta * ratios.chosen_P - self.beta * ratios.rejected_P)


RECIPE = RecipeSpec(
    name="dpo",
    label="DPO",
    objective=DirectPreference,
    samples=PAIRS,
    build_method="preference",
    data="preference pairs",
    colour="#cc3d5c",
    order=4,
    paper_examples=5084,
    paper_models={
        "llava15_13b": "",
        "llava15_7b": (
            "The paper publishes neither beta nor learning rate of its 7B run (its search: beta 0.3 and 0.5, lr 5e-5 and "
            "5e-6): these are the 13B's. Its 7B data also held 6,000 pairs of text alone from HelpSteer."
        ),
    },
)
