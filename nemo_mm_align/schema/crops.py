"""Parts of a picture, drawn at random and always the same: what is left of it to see says too little for the answer."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image

ASPECTS = (3 / 4, 4 / 3)
"""Width by height of a part, those of torchvision's `RandomResizedCrop`."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a picture, stretched to the picture's size, as torchvision's `RandomResizedCrop` draws it.

    The area is a uniform share of the picture's, the logarithm of width by height uniform within `ASPECTS`, the place uniform.
    Edges lie between pixels, so that a picture of one pixel has parts too, and the area is kept in every picture: of one that
    is too long and narrow for the aspect, the part is longer (torchvision takes a part of another area from the middle there).

    Args:
        least, most: of the area, as shares above 0 of the picture's.
        seed: what tells this part from others; it alone decides, on every machine and in every version of Python.
    """

    least: float
    most: float
    seed: int

    def box(self, width: int, height: int) -> Box:
        """Return left, top, right and bottom edge, in pixels, in a picture of this size."""
        draw = random.Random(self.seed)
        area = draw.uniform(self.least, self.most) * width * height
        aspect = math.exp(draw.uniform(*map(math.log, ASPECTS)))
        across = min(math.sqrt(area * aspect), width)
        down = min(area / across, height)
        across = min(area / down, width)
        left, top = draw.uniform(0, width - across), draw.uniform(0, height - down)
        return left, top, min(left + across, width), min(top + down, height)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the part in the size of the picture, by bilinear interpolation."""
        return image.resize(image.size, Image.Resampling.BILINEAR, box=self.box(*image.size))
