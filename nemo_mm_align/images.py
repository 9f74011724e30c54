"""Images: opened safely, padded to a square, resized and normalised as LLaVA-1.5 does; their bytes for a judge.

Array names carry shapes: C channels, H height, W width in pixels.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from nemo_mm_align.errors import UserError
from nemo_mm_align.image_settings import CLIP_MEAN, CLIP_STD, read_image_settings

MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 256 * 1024 * 1024
"""What is read of any image file: MAX_PIXELS without compression."""

MAX_JUDGE_BYTES = 15 * 1024 * 1024
"""A judge's request is limited to 20 MB, and base64 makes 4 bytes of 3."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is opened, by content. Pillow knows forty more, among them one (EPS) that starts another program."""

MIME_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
"""What judges take. MPO is how Pillow calls the JPEG files of many phones (a second picture follows the first)."""

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)
"""What Pillow's decoders raise on damaged files."""


def read_file(path: str | Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of an image file.

    Raises:
        UserError: there is no such file, it cannot be read, it is larger than `max_bytes`, or it is a pipe or a device,
            which could block or never end.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(None, "Is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a file but a pipe, a socket or a device. Replace it by an image file.")
        if status.st_size > max_bytes:
            raise UserError(
                f"{path}: {status.st_size:,} bytes; at most {max_bytes:,} are allowed. Save it smaller or compress it."
            )
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image. Check the record's path and the image root.") from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}). Check the path and its permissions.") from None


def _open(data: bytes, path: str | Path, max_pixels: int) -> Image.Image:
    """Read an image's header and check its size before anything is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise UserError(f"{path}: too many pixels (a decompression bomb?). Make the image smaller.") from None
    except _BROKEN:
        raise UserError(
            f"{path}: not an image of a known format ({', '.join(FORMATS)}), or a damaged one ({len(data)} bytes). "
            "Replace the file."
        ) from None
    width, height = image.size
    if width * height > max_pixels:
        raise UserError(
            f"{path}: {width} x {height} pixels; at most {max_pixels:,} are allowed. Make the image smaller."
        )
    if not width or not height:
        raise UserError(f"{path}: {width} x {height} pixels. Replace the file.")
    return image


def _decode(image: Image.Image, path: str | Path) -> None:
    try:
        image.load()
    except _BROKEN as error:
        raise UserError(f"{path}: damaged or cut off ({error}). Replace the file.") from None


def _decode_quickly(image: Image.Image, path: str | Path) -> None:
    """Decode to the end; JPEG at an eighth of its size, which is several times faster."""
    image.draft("L", (1, 1))
    _decode(image, path)


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image as RGB, turned upright as its EXIF data say.

    Raises:
        UserError: the file is missing, not an image, damaged, cut off, or has more than `max_pixels` pixels.
    """
    image = _open(read_file(path), path, max_pixels)
    _decode(image, path)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # a plain conversion would clip 16-bit grey values to white
        image = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    return image.convert("RGB")


def verify_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Check that an image exists and decodes to its end.

    Raises:
        UserError: as `load_image`.
    """
    _decode_quickly(_open(read_file(path), path, max_pixels), path)


def image_fault(path: str | Path) -> str | None:
    """Return what `verify_image` says of an image; None where nothing is wrong with it."""
    try:
        verify_image(path)
    except UserError as error:
        return str(error)
    return None


def read_image_bytes(path: str | Path, max_bytes: int = MAX_JUDGE_BYTES) -> tuple[bytes, str]:
    """Return a file's bytes as they are and the MIME type that the bytes show, whatever the file is called.

    Raises:
        UserError: the file is missing, larger than `max_bytes`, not decodable, or not PNG, JPEG, WebP or GIF.
    """
    data = read_file(path, max_bytes)
    image = _open(data, path, MAX_PIXELS)
    if image.format not in MIME_TYPES:
        raise UserError(f"{path}: the format {image.format} is not accepted by judges; convert it to PNG or JPEG.")
    _decode_quickly(image, path)
    return data, MIME_TYPES[image.format]


class ImageProcessor(BaseModel):
    """Image to the vision tower's input: pad (or crop) to a square, bicubic resize, scale by 1/255, normalise.

    Args:
        image_size: height and width of the output in pixels.
        mean, std: per channel, of values in 0 to 1.
        pad_to_square: pad with the mean colour, as LLaVA-1.5 was trained; False resizes the shorter edge and crops the
            centre, as CLIP does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(gt=0)
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    pad_to_square: bool = True

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Return pixels_CHW, float32, of shape [3, image_size, image_size]."""
        image = image.convert("RGB")
        image = self._pad(image) if self.pad_to_square else self._crop(image)
        pixels_HWC = np.asarray(image, dtype=np.float64) / 255
        pixels_HWC = (pixels_HWC.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))

    def _pad(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        side = max(width, height)
        if width != height:
            red, green, blue = (int(value * 255) for value in self.mean)
            square = Image.new("RGB", (side, side), (red, green, blue))
            square.paste(image, ((side - width) // 2, (side - height) // 2))
            image = square
        return image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def _crop(self, image: Image.Image) -> Image.Image:
        short = min(image.size)
        width, height = (int(self.image_size * edge / short) for edge in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.image_size) // 2, (height - self.image_size) // 2
        return image.crop((left, top, left + self.image_size, top + self.image_size))

    def to_hf(self) -> dict[str, Any]:
        """Return the content of a ``preprocessor_config.json`` with which `transformers` does the same."""
        square = {"height": self.image_size, "width": self.image_size}
        return {
            "image_processor_type": "LlavaImageProcessor" if self.pad_to_square else "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
            **({"do_pad": True} if self.pad_to_square else {}),
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": self.image_size},
            "resample": int(Image.Resampling.BICUBIC),
            "do_center_crop": True,
            "crop_size": square,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    @classmethod
    def from_hf(cls, folder: str | Path) -> ImageProcessor:
        """Read a Hugging Face folder's ``preprocessor_config.json``, or what transformers 5 writes in its place.

        Raises:
            UserError: the file is missing or broken, or asks for steps that this class does not do.
        """
        return cls(**read_image_settings(folder))
