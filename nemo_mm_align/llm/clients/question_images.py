"""An image file as it goes into a request: its own bytes. The input check has decoded it once; here nothing is."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import Question, QuestionImage
from nemo_mm_align.schema.images import MAX_JUDGE_BYTES, load_image, read_file

log = logging.getLogger(__name__)

SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}

_noted: set[str] = set()


@dataclass(frozen=True)
class RequestImage:
    """Bytes of an image and their MIME type."""

    data: bytes
    mime_type: str


def loaded_parts(question: Question, accepted: Collection[str]) -> tuple[str | RequestImage, ...]:
    """Return the parts of a question with the bytes of its images; raises as `load_question_image`."""
    return tuple(part if isinstance(part, str) else load_question_image(part, accepted) for part in question.parts)


def load_question_image(image: QuestionImage, accepted: Collection[str]) -> RequestImage:
    """Return an image's original bytes; a format that the service does not take goes as PNG (its first frame).

    Args:
        accepted: MIME types that the service takes.

    Raises:
        CallFailure: ``input`` where the file has gone or changed since the input check: the ledger would hold an answer
            about another image than it says.
    """
    path, data = image.path, read_checked(image)
    try:
        mime_type = sniff(data)
        if mime_type is None:
            raise UserError(f"{path}: neither PNG, JPEG, WebP nor GIF. Convert it to PNG or JPEG.")
        return RequestImage(data, mime_type) if mime_type in accepted else _as_png(path, mime_type)
    except UserError as error:
        raise CallFailure("input", str(error)) from None


def read_checked(image: QuestionImage) -> bytes:
    """Return the bytes of an image's file; raise `CallFailure` (``input``) where it has gone or changed since the input check."""
    try:
        data = read_file(image.path, MAX_JUDGE_BYTES)
        if image.sha256 and hashlib.sha256(data).hexdigest() != image.sha256:
            raise UserError(f"{image.path}: changed since this run began. Start the same command again.")
    except UserError as error:
        raise CallFailure("input", str(error)) from None
    return data


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
