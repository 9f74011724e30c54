"""Images that stand inside records become files of a cache folder, named by their content, bytes kept."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.core.hashing import hash_bytes
from nemo_mm_align.schema.images import FORMATS, MAX_FILE_BYTES

DATA_URL = re.compile(r"data:([^,]{0,200}?)(;base64)?,", re.IGNORECASE)


def default_cache() -> Path:
    """Return the folder that images go to where none is set."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nemo_mm_align" / "images"


def store_image(data: bytes, cache: Path) -> Path:
    """Return the file of an image's bytes, written where it is not there yet."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            suffix = (image.format or "image").lower()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        suffix = "broken"  # reported with its path where the image is opened
    path = cache / f"{hash_bytes(data, 32)}.{suffix}"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, path)
    return path


def is_data_url(text: str) -> bool:
    """Whether a path is none, but a data URL."""
    return text[:5].lower() == "data:"


def store_data_url(url: str, cache: Path) -> Path:
    """Return the file of the image in a data URL (RFC 2397, base64).

    Raises:
        UserError: not base64, too large, or no image; the message names the URL's type and length, never its content.
    """
    found = DATA_URL.match(url)
    what = f"image is a data URL (data:{shorten(found[1], 40) if found else ''}, {len(url):,} characters)"
    if found is None or not found[2]:
        raise UserError(f"{what} without ;base64; store it as a file and give its path.")
    if len(url) > MAX_FILE_BYTES * 4 // 3:
        raise UserError(f"{what}; at most {MAX_FILE_BYTES:,} bytes are read. Make the image smaller.")
    try:
        data = base64.b64decode("".join(unquote(url[found.end() :]).split()), validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{what} that is not base64; store it as a file and give its path.") from None
    path = store_image(data, cache)
    if path.suffix == ".broken":
        path.unlink(missing_ok=True)
        raise UserError(f"{what} that holds no image of a known format; replace it.")
    return path
