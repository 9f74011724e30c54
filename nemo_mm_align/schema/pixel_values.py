"""Grey values of more than 8 bits, made 8-bit without turning into white or black."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffTags import TAGS_V2

from nemo_mm_align.core.errors import UserError

_TAG = {info.name: tag for tag, info in TAGS_V2.items()}


def eight_bits(image: Image.Image, path: str | Path) -> Image.Image:
    """Return a picture of 16-bit, 32-bit or floating-point grey values as 8-bit grey.

    16 bits (PNG, TIFF, PGM) keep the upper 8. 32-bit numbers do not say which of them is white: they are taken as they
    are where all lie in 0 to 255, as 8-bit values stored widely do.

    Raises:
        UserError: the values do not say which of them is white.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return _grey(values.astype(np.uint16) >> (_bits(image, path) - 8))
    if image.format == "PPM" and image.mode == "I":  # Pillow brings every PGM of more than 8 bits to 0..65535
        return _grey(values >> 8)
    low, high = float(values.min()), float(values.max())
    bytes_stored_widely = low >= 0 and high <= 255 and (image.mode == "I" or high > 1 or low == high == 0)
    if bytes_stored_widely and not _white_is_zero(image):  # nan fails every comparison
        return _grey(values)
    raise UserError(
        f"{path}: grey values from {low:g} to {high:g} in 32 bits, which do not say which value is white. Save it as PNG with "
        "8 or 16 bits."
    )


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


def _bits(image: Image.Image, path: str | Path) -> int:
    """Bits of a sample in the file: TIFF knows 12 as well."""
    if image.format != "TIFF":
        return 16
    if _white_is_zero(image):
        raise UserError(f"{path}: 16-bit grey values where 0 is white. Save it as PNG, or with 0 as black.")
    return int(image.tag_v2.get(_TAG["BitsPerSample"], (16,))[0])  # type: ignore[attr-defined]


def _white_is_zero(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(_TAG["PhotometricInterpretation"]) == 0
