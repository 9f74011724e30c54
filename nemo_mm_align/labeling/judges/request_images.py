"""An image file as it goes into a request: its own bytes. The input check has decoded it once; here nothing is."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from nemo_mm_align.errors import UserError
from nemo_mm_align.images import MAX_JUDGE_BYTES, load_image, read_file
from nemo_mm_align.labeling.judge import JudgeFailure, JudgeRequest

log = logging.getLogger(__name__)

SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}

_noted: set[str] = set()


@dataclass(frozen=True)
class RequestImage:
    """Bytes of an image and their MIME type."""

    data: bytes
    mime_type: str


def request_images(request: JudgeRequest, accepted: Collection[str]) -> Iterator[RequestImage]:
    """Yield the images of a request in order; raises as `read_request_image`."""
    for path, checked in zip_longest(request.image_paths, request.image_hashes, fillvalue=""):
        yield read_request_image(Path(path), accepted, checked)


def read_request_image(path: Path, accepted: Collection[str], checked: str = "") -> RequestImage:
    """Return an image's original bytes; a format that the service does not take goes as PNG (its first frame).

    Args:
        path: the file.
        accepted: MIME types that the service takes.
        checked: SHA-256 that its bytes had when the input was checked; "" where any will do.

    Raises:
        JudgeFailure: ``input`` where the file has gone or changed since the input check: the ledger would hold a judgement
            of another image than it says.
    """
    try:
        data = read_file(path, MAX_JUDGE_BYTES)
        if checked and hashlib.sha256(data).hexdigest() != checked:
            raise UserError(f"{path}: changed since this run began. Start the same command again.")
        mime_type = sniff(data)
        if mime_type is None:
            raise UserError(f"{path}: neither PNG, JPEG, WebP nor GIF. Convert it to PNG or JPEG.")
        return RequestImage(data, mime_type) if mime_type in accepted else _as_png(path, mime_type)
    except UserError as error:
        raise JudgeFailure("input", str(error)) from None


def sniff(data: bytes) -> str | None:
    """Return the MIME type that the first bytes show, whatever the file is called; None for none of the known."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((mime_type for start, mime_type in SIGNATURES.items() if data.startswith(start)), None)


def _as_png(path: Path, mime_type: str) -> RequestImage:
    if mime_type not in _noted:
        _noted.add(mime_type)
        log.warning("%s is %s, which this service does not take: sent as PNG, as all of its kind", path, mime_type)
    buffer = io.BytesIO()
    load_image(path).save(buffer, "PNG")
    return RequestImage(buffer.getvalue(), "image/png")
