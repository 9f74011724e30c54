"""Parts of Pillow's bicubic resize, in memory that does not grow with what is not computed.

`ImageProcessor` pads to a square or cuts one out. Where that square, or the enlarged picture that is cut, would be far
larger than the picture itself, only the windows that its pixels fall into are computed here, with Pillow's own arithmetic
(``Resample.c``: 22-bit fixed-point weights, 8-bit values between the passes), so that the numbers are the same.

Array names carry shapes: L lines, W pixels of the axis that is resized, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PRECISION_BITS = 32 - 8 - 2
SUPPORT = 2.0
"""Of the cubic: pixels on either side that count."""

CHUNK = 1 << 22
"""Values that are converted to float64 at once: 32 MiB."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Window:
    """The pixels that one output pixel is made of, from `start` on, and their fixed-point weights."""

    start: int
    weights: NDArray[np.float64]

    @property
    def end(self) -> int:
        """The pixel after the last one."""
        return self.start + len(self.weights)


def window(position: int, size: int, new_size: int) -> Window:
    """Return what the output pixel at `position` is made of where `size` pixels become `new_size`."""
    scale = size / new_size
    stretch = max(scale, 1.0)
    center, support = (position + 0.5) * scale, SUPPORT * stretch
    start = max(int(center - support + 0.5), 0)
    end = min(int(center + support + 0.5), size)
    weights = _cubic((np.arange(end - start) + start - center + 0.5) * (1.0 / stretch))
    total = np.add.accumulate(weights)[-1]  # from left to right, as in C: another order rounds otherwise
    fixed = weights / total * (1 << PRECISION_BITS)
    return Window(start, np.trunc(np.where(fixed < 0, fixed - 0.5, fixed + 0.5)))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def span(first: int, last: int, size: int, new_size: int) -> tuple[int, int]:
    """Return from which pixel to which (the end is not one of them) the output pixels `first` to `last` are made."""
    return window(first, size, new_size).start, window(last, size, new_size).end


def positions_of(start: int, end: int, size: int, new_size: int) -> range:
    """Return the output pixels that pixels `start` to `end` have a share in, and perhaps one more on either side."""
    scale = size / new_size
    reach = SUPPORT * max(scale, 1.0) + 1
    first = math.floor((start - reach) / scale - 0.5)
    last = math.ceil((end + reach) / scale - 0.5)
    return range(max(first, 0), min(last + 1, new_size))


def resample(
    pixels_LWC: Pixels, positions: range, size: int, new_size: int, offset: int, fill_LC: Pixels | None = None
) -> Pixels:
    """Compute some output pixels of a pass along an axis of `size` pixels of which only some are given.

    Args:
        pixels_LWC: the pixels from `offset` on.
        positions: which output pixels.
        size, new_size: of the axis, before and after.
        offset: place of the first given pixel on the axis.
        fill_LC: what stands at all other places, for each line, or one line for all; None where no window holds such
            places.

    Returns:
        Array [L, len(positions), C].
    """
    lines, width, channels = pixels_LWC.shape
    windows = [window(position, size, new_size) for position in positions]
    result = np.empty((lines, len(positions), channels), np.uint8)
    step = max(1, CHUNK // max(1, width * channels))
    for start in range(0, lines, step):
        part_LWC = pixels_LWC[start : start + step].astype(np.float64)
        fill = None if fill_LC is None else fill_LC[start : start + step] if len(fill_LC) > 1 else fill_LC
        for place, item in enumerate(windows):
            result[start : start + step, place] = _weigh(part_LWC, item, offset, fill)
    return result


def _weigh(pixels_LWC: NDArray[np.float64], item: Window, offset: int, fill_LC: Pixels | None) -> Pixels:
    """Whole numbers below 2**53 throughout: exact in float64, in any order."""
    width = pixels_LWC.shape[1]
    start = min(max(item.start - offset, 0), width)
    end = max(min(item.end - offset, width), start)
    inside = item.weights[start + offset - item.start : end + offset - item.start]
    sums_LC = np.einsum("lwc,w->lc", pixels_LWC[:, start:end], inside) if end > start else 0.0
    if fill_LC is not None:
        sums_LC = sums_LC + fill_LC * (item.weights.sum() - inside.sum())
    rounded_LC = np.floor((np.asarray(sums_LC) + (1 << (PRECISION_BITS - 1))) / (1 << PRECISION_BITS))
    return np.clip(rounded_LC, 0, 255).astype(np.uint8)


def pad_and_resize(image: Image.Image, new_size: int, colour: tuple[int, int, int]) -> Image.Image:
    """Return what an RGB image becomes that is centred on a square of `colour` and resized to `new_size`.

    Memory grows with the picture and its longer edge, not with the square.
    """
    width, height = image.size
    side, offset = max(width, height), (max(width, height) - min(width, height)) // 2
    positions = positions_of(offset, offset + min(width, height), side, new_size)
    fill_1C = np.array([colour], np.uint8)
    nothing_LWC = np.empty((1, 0, 3), np.uint8)
    row_WC = resample(nothing_LWC, range(new_size), side, new_size, 0, fill_1C)[0]
    columns_WHC = resample(np.empty((new_size, 0, 3), np.uint8), range(new_size), side, new_size, 0, row_WC)
    square_HWC = columns_WHC.transpose(1, 0, 2).copy()
    place = slice(positions.start, positions.stop)
    if height > width:
        band_HWC = resample(np.asarray(image), positions, side, new_size, offset, fill_1C)
        square_HWC[:, place] = np.asarray(_resized(Image.fromarray(band_HWC), (len(positions), new_size)))
    else:
        lines_WHC = np.asarray(_resized(image, (new_size, height))).transpose(1, 0, 2)
        square_HWC[place] = resample(lines_WHC, positions, side, new_size, offset, row_WC).transpose(1, 0, 2)
    return Image.fromarray(square_HWC)


def resize_and_cut(image: Image.Image, width: int, height: int, new_size: int) -> Image.Image:
    """Return the centre square of `new_size` of an RGB image that is resized to `width` x `height`, one of them `new_size`."""
    left, top = (width - new_size) // 2, (height - new_size) // 2
    if width > height:
        start, end = span(left, left + new_size - 1, image.width, width)
        part = image.crop((start, 0, end, image.height))
        columns = range(left, left + new_size)
        cut_HWC = resample(np.asarray(part), columns, image.width, width, start)
        return _resized(Image.fromarray(cut_HWC), (new_size, new_size))
    start, end = span(top, top + new_size - 1, image.height, height)
    part = _resized(image.crop((0, start, image.width, end)), (new_size, end - start))
    lines_WHC = np.asarray(part).transpose(1, 0, 2)
    rows = range(top, top + new_size)
    cut_WHC = resample(lines_WHC, rows, image.height, height, start)
    return Image.fromarray(np.ascontiguousarray(cut_WHC.transpose(1, 0, 2)))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.BICUBIC)
