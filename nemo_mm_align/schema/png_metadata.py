"""PNG files whose metadata Pillow refuses for their size, although nobody here needs them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
ORIENTATION_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Texts that may say how a picture is turned."""


def without_metadata(data: bytes) -> Iterator[bytes]:
    """Yield a PNG file without texts and colour profile: first with the texts that may tell its orientation, then bare.

    Nothing for other formats, and nothing where there are no such texts.
    """
    if not data.startswith(SIGNATURE):
        return
    chunks = list(_chunks(data))
    for kept in (ORIENTATION_KEYWORDS, ()):
        parts = [part for kind, part in chunks if kind not in METADATA or part[8:].startswith(kept)]
        if len(parts) < len(chunks):
            yield b"".join((SIGNATURE, *parts))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and bytes of each chunk, the last one as far as it goes."""
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, data[place : place + length + 12]
        place += length + 12
