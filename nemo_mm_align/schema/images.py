"""Images: opened safely, padded to a square, resized and normalised as LLaVA-1.5 does; their bytes for a judge.

Array names carry shapes: C channels, H height, W width in pixels. numpy is imported where a picture becomes an array: many
commands only look at files.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.image_settings import CLIP_MEAN, CLIP_STD, read_image_settings
from nemo_mm_align.schema.png_metadata import without_metadata

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PIXELS = 64_000_000
"""Of the picture, and of the square or enlargement that a resize may hold in memory."""

MAX_EDGE = 1_000_000
"""Pixels of the longer edge. Beyond, Pillow's fixed-point weights of a resize lose their meaning."""

MAX_FILE_BYTES = 256 * 1024 * 1024
"""What is read of any image file: MAX_PIXELS without compression."""

MAX_JUDGE_BYTES = 15 * 1024 * 1024
"""A judge's request is limited to 20 MB, and base64 makes 4 bytes of 3."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is opened, by content. Pillow knows forty more, among them one (EPS) that starts another program."""

MIME_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
"""What judges take. MPO is how Pillow calls the JPEG files of many phones (a second picture follows the first)."""

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation."""

_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders raise on damaged files, and what its readers of metadata raise on odd ones."""


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
    except UnidentifiedImageError:
        raise UserError(
            f"{path}: not an image of a known format ({', '.join(FORMATS)}), or a damaged one ({len(data)} bytes). "
            "Replace the file."
        ) from None
    width, height = image.size
    if width * height > max_pixels:
        raise UserError(
            f"{path}: {width} x {height} pixels; at most {max_pixels:,} are allowed. Make the image smaller."
        )
    if max(width, height) > MAX_EDGE:
        raise UserError(f"{path}: {width} x {height} pixels; an edge may have at most {MAX_EDGE:,}. Cut the image.")
    if not width or not height:
        raise UserError(f"{path}: {width} x {height} pixels. Replace the file.")
    return image


def _decode(data: bytes, path: str | Path, max_pixels: int = MAX_PIXELS, quickly: bool = False) -> Image.Image:
    """Decode an image to its end; metadata that Pillow refuses for their size are left out.

    Args:
        quickly: JPEG at an eighth of its size and without colour, which is several times faster.
    """
    for variant in (data, *without_metadata(data)):
        try:
            image = _open(variant, path, max_pixels)
            if quickly:
                image.draft("L", (1, 1))
            image.load()
            return image
        except UserError as error:
            fault = error
        except _BROKEN as error:
            fault = UserError(f"{path}: damaged or cut off ({error}). Replace the file.")
    raise fault from None


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image as RGB, turned upright as its EXIF data say.

    EXIF data that cannot be read turn nothing. Grey values of 16 bits keep their upper 8.

    Raises:
        UserError: the file is missing, not an image, damaged, cut off, has more than `max_pixels` pixels, or grey values
            that do not say which of them is white.
    """
    return image_of_bytes(read_file(path), path, max_pixels)


def image_of_bytes(data: bytes, path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open the content of an image file as `load_image` does; `path` is its name in messages."""
    return _as_rgb(_decode(data, path, max_pixels), path)


def verify_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Check that `load_image` will open an image: by the same steps, apart from the resolution of a JPEG.

    Raises:
        UserError: as `load_image`.
    """
    verify_bytes(read_file(path), path, max_pixels)


def verify_bytes(data: bytes, path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Check the content of an image file as `verify_image` does; `path` is its name in messages."""
    _as_rgb(_decode(data, path, max_pixels, quickly=True), path)


def _as_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    try:
        turn = _turn(image)  # before anything else: what is made of a file's image does not know its metadata
        upright = _plain(image, path).convert("RGB")
        return upright if turn is None else upright.transpose(turn)
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"{path}: cannot become RGB ({error}). Save it as RGB or grey with 8 bits.") from None


def _plain(image: Image.Image, path: str | Path) -> Image.Image:
    """The picture with 8 bits a value, if it has more."""
    if not image.mode.startswith(("I", "F")):
        return image
    from nemo_mm_align.schema.pixel_values import eight_bits

    return eight_bits(image, path)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What `PIL.ImageOps.exif_transpose` would do, which fails where the EXIF data are damaged."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except _BROKEN:
        return None


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
    image = _decode(data, path, quickly=True)
    if image.format not in MIME_TYPES:
        raise UserError(f"{path}: the format {image.format} is not accepted by judges; convert it to PNG or JPEG.")
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
        import numpy as np

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
            if side * side > MAX_PIXELS:
                from nemo_mm_align.schema.resampling import pad_and_resize

                return pad_and_resize(image, self.image_size, (red, green, blue))
            square = Image.new("RGB", (side, side), (red, green, blue))
            square.paste(image, ((side - width) // 2, (side - height) // 2))
            image = square
        return image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def _crop(self, image: Image.Image) -> Image.Image:
        short = min(image.size)
        width, height = (int(self.image_size * edge / short) for edge in image.size)
        if width * height > MAX_PIXELS:
            from nemo_mm_align.schema.resampling import resize_and_cut

            return resize_and_cut(image, width, height, self.image_size)
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
