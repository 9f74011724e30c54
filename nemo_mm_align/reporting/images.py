"""Pictures that stand inside a page, as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Literal

from nemo_mm_align.schema.images import load_image

JPEG_QUALITY = 85


def data_uri(data: bytes, mime_type: str) -> str:
    """Return bytes for the `src` of an image."""
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def image_uri(path: Path, max_edge: int, form: Literal["png", "jpeg"]) -> str:
    """Return an image file's picture, scaled down where an edge is longer than `max_edge` pixels.

    Raises:
        UserError: the image is missing or broken.
    """
    image = load_image(path)
    image.thumbnail((max_edge, max_edge))
    buffer = io.BytesIO()
    image.save(buffer, format=form, quality=JPEG_QUALITY)
    return data_uri(buffer.getvalue(), f"image/{form}")
