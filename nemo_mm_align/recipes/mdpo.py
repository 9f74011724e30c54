"""Preference optimisation that the image must bear out (mDPO: Wang et al., arXiv 2406.11839).

DPO on pairs with images can learn from the texts alone. So the chosen answer is also told beside another image m', a random part
of its own image m, and has to be the better one beside m. With r(y | m) the log-ratio of policy and reference of answer y beside
image m, in nats, a sample's loss is

    -log sigmoid(beta (r(chosen | m) - r(rejected | m)))      the pair, as in DPO
    -log sigmoid(beta (r(chosen | m) - r(chosen | m')))       the image (image_weight)
    -log sigmoid(beta r(chosen | m) - delta)                  anchor: a chosen answer does not become less likely (anchor_weight)

As the authors' code has it (github.com/luka-group/mDPO), m' is up to a fifth of the area; there it is another part at every step,
cut from the padded and resized image, here the same one in all epochs, so that the reference's log-probs of it are computed once,
and cut from the image itself. Of a pair without images the second term says nothing.

Shapes: Q sequences of the micro batch, N samples with images, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from nemo_mm_align.core.configuration import NotNegative, Seed
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.kinds import IMAGE_PAIRS
from nemo_mm_align.datasets.kinds.image_pairs import CropRange, ImagePairs
from nemo_mm_align.datasets.kinds.kind import SampleKind
from nemo_mm_align.datasets.sample import CHOSEN, CHOSEN_OTHER_IMAGE
from nemo_mm_align.objectives.preference import PairLogRatios, Preference
from nemo_mm_align.recipes.spec import RecipeSpec

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch

Area = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class ImagePreference(Preference):
    """DPO with a term for the image and an anchor, as the module's docstring says.

    Args:
        image_weight, anchor_weight: of these terms; sums over answers like the pair losses, divided by pairs like them. At an
            image_weight of 0 no other image is looked at.
        anchor_margin: delta, nats times beta: what the chosen answer's reward is to exceed.
        crop_least, crop_most: area of the other image, as shares of the image's.
        crop_seed: of the draw of it.
    """

    image_weight: NotNegative
    anchor_weight: NotNegative
    anchor_margin: Annotated[float, Field(ge=-1e30, le=1e30)]
    crop_least: Area
    crop_most: Area
    crop_seed: Seed

    def __post_init__(self) -> None:
        if self.crop_least > self.crop_most:
            raise UserError(
                f"recipe.crop_least={self.crop_least} is above recipe.crop_most={self.crop_most}: an image's part has an area "
                "between the two."
            )

    def sample_kind(self, samples: SampleKind) -> SampleKind:
        """Pairs with the part of their image that the settings draw."""
        assert isinstance(samples, ImagePairs)
        drawn = CropRange(self.crop_least, self.crop_most, self.crop_seed)
        return replace(samples, crops=drawn if self.image_weight else None)

    def pair_losses(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        import torch.nn.functional as F

        return -F.logsigmoid(self.beta * ratios.delta_P)

    def further_losses(self, ratio_Q: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Image and anchor, weighted, summed over answers."""
        import torch.nn.functional as F

        found = {}
        if self.image_weight:
            own_N, other_N = _beside_images(ratio_Q, batch)
            found["image"] = -self.image_weight * F.logsigmoid(self.beta * (own_N - other_N)).sum()
        if self.anchor_weight:
            rewards_P = self.beta * batch.of_role(CHOSEN, ratio_Q)
            found["anchor"] = -self.anchor_weight * F.logsigmoid(rewards_P - self.anchor_margin).sum()
        return found

    def sequence_metrics(self, ratio_Q: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Rewards of chosen answers beside the other image, and how often their own image makes the greater one."""
        own_N, other_N = _beside_images(self.beta * ratio_Q, batch)
        sums = {
            "chosen_other_image": other_N.sum(),
            "image_margins": (own_N - other_N).sum(),
            "image_accuracies": (own_N > other_N).float().sum(),
        }
        weight = own_N.new_full((), len(own_N))
        return {f"rewards/{name}": (value.float(), weight) for name, value in sums.items()}


def _beside_images(ratio_Q: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the values of chosen answers beside their image and beside the other one, [N] each."""
    other_N = batch.roles[CHOSEN_OTHER_IMAGE].to(ratio_Q.device)
    # Sequences of such a sample: chosen, rejected, chosen beside the other image.
    return ratio_Q[other_N - 2], ratio_Q[other_N]


RECIPE = RecipeSpec(
    name="mdpo",
    label="mDPO",
    objective=ImagePreference,
    samples=IMAGE_PAIRS,
    build_method="preference",
    data="preference pairs with images",
    colour="#882255",
)
