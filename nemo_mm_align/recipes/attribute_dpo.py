"""Preference optimisation under asked attributes: the same two answers, in the order that the line asks for.

Starts from an attribute-conditioned model, which is also the reference (its line belongs to the prompts, and so to the key of
cached log-probs). Per sample, with r(y | c) the log-ratio of policy and reference of answer y under line c:

    -log sigmoid(beta (r(chosen | c) - r(rejected | c)))      the better answer under its line, and likewise under the flip line
                                                              c', where the other one is better
    -log sigmoid(beta (r(y | c) - r(y | c')))                 contrast: the same answer under the line that fits it and the other
    -log sigmoid(beta r(chosen | c))                          anchor: a chosen answer does not become less likely

The first two lines are DPO (Rafailov et al., arXiv 2305.18290) under conditions, as in controllable preference optimisation (Guo
et al., arXiv 2402.19085); contrast and anchor are those of mDPO (Wang et al., arXiv 2406.11839), with the line in the image's
place.

Shapes: Q sequences of the micro batch, F samples with a flip line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_mm_align.core.configuration import NotNegative
from nemo_mm_align.datasets.kinds import ATTRIBUTE_PAIRS
from nemo_mm_align.datasets.sample import CHOSEN
from nemo_mm_align.objectives.preference import PairLogRatios, Preference
from nemo_mm_align.recipes.spec import RecipeSpec

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch


@dataclass(frozen=True)
class AttributePreference(Preference):
    """DPO under lines, with contrast and anchor as the module's docstring says.

    Args:
        contrast_weight, anchor_weight: of these terms; sums over answers like the pair losses, divided by pairs like them.
    """

    contrast_weight: NotNegative
    anchor_weight: NotNegative

    def pair_losses(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        import torch.nn.functional as F

        return -F.logsigmoid(self.beta * (ratios.chosen_P - ratios.rejected_P))

    def further_losses(self, ratio_Q: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Contrast and anchor, weighted, summed over answers."""
        import torch.nn.functional as F

        found = {}
        if self.contrast_weight:
            first_F = flip_samples(batch).to(ratio_Q.device)
            # Sequences of such a sample: chosen and rejected under c, then rejected and chosen under c'.
            fitting_F, other_F = ratio_Q[first_F] - ratio_Q[first_F + 3], ratio_Q[first_F + 2] - ratio_Q[first_F + 1]
            losses_F = -F.logsigmoid(self.beta * fitting_F) - F.logsigmoid(self.beta * other_F)
            found["contrast"] = self.contrast_weight * losses_F.sum()
        if self.anchor_weight:
            losses_P = -F.logsigmoid(self.beta * batch.of_role(CHOSEN, ratio_Q))
            found["anchor"] = self.anchor_weight * losses_P.sum()
        return found


def flip_samples(batch: Batch) -> Tensor:
    """Return the number of the first sequence of each sample with a flip line, [F]."""
    import torch

    first, places = 0, []
    for count in batch.sequence_counts:
        if count == 4:
            places.append(first)
        first += count
    return torch.tensor(places, dtype=torch.int64)


RECIPE = RecipeSpec(
    name="attribute_dpo",
    label="Attribute DPO",
    objective=AttributePreference,
    samples=ATTRIBUTE_PAIRS,
    build_method="attribute_preference",
    data="preference pairs under attributes",
    colour="#7b3294",
    after="steerlm",
    order=5,
)
