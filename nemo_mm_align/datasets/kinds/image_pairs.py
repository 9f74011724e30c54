"""Kinds of a better and a worse answer, and of the better one beside the image that it belongs to and beside another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nemo_mm_align.core.hashing import hash_text
from nemo_mm_align.datasets.kinds.pairs import Pairs
from nemo_mm_align.datasets.sample import CHOSEN, CHOSEN_OTHER_IMAGE, REJECTED, Sample
from nemo_mm_align.schema.crops import Crop
from nemo_mm_align.schema.examples import Example
from nemo_mm_align.schema.prompts import Encoder


@dataclass(frozen=True)
class CropRange:
    """Which part of an image the other image is.

    Args:
        least, most: of its area, as shares of the image's.
        seed: of the draw; the same sample always gets the same part.
    """

    least: float
    most: float
    seed: int

    def of(self, sample: str, place: int) -> Crop:
        """Return the part of the image in a place of a sample, by the sample's id."""
        return Crop(self.least, self.most, int(hash_text(f"{self.seed} {place} {sample}"), 16))


@dataclass(frozen=True)
class ImagePairs(Pairs):
    """Pairs whose chosen answer is told a second time beside a part of its image; pairs of text alone are pairs as ever.

    Args:
        crops: what parts are drawn; None draws none, and pairs with images have their two sequences as well.
    """

    crops: CropRange | None = None

    title = "preference pairs with images"
    roles = (CHOSEN, REJECTED, CHOSEN_OTHER_IMAGE)
    apart = 1

    def lacks(self, examples: Sequence[Example]) -> str | None:
        """Without any image there is nothing to compare."""
        if any(example.images for example in examples):
            return None
        return "pairs with images; none of them has any: a recipe on pairs without an image term does the same there for less."

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """Chosen and rejected; where there are images, chosen again, seeing a part of each."""
        sample = super().encode(example, encoder)
        if not sample.image_paths or self.crops is None:
            return sample
        parts = tuple(self.crops.of(sample.id, place) for place in range(len(sample.image_paths)))
        return replace(
            sample,
            sequences=[*sample.sequences, sample.sequences[0]],
            reference_log_probs=None,  # the record's own know nothing of the third sequence
            roles=self.roles,
            views=((), (), parts),
        )

    def flaw(self, sample: Sample) -> tuple[str, str] | None:
        """Of the two answers; the third sequence is one of them."""
        return super().flaw(Sample(sample.id, sequences=sample.sequences[:2]))
