"""The pictures of requests: fetched where they lie, decoded once, known again by their content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.schema.images import MAX_PIXELS, ImageProcessor


@dataclass(frozen=True)
class PictureLimits:
    """What is read of a picture.

    Args:
        max_bytes, max_pixels: of one.
        hosts: that pictures are fetched from by http and https: ``host`` (the usual ports) or ``host:port``. Private addresses
            are fetched from where they, or a network as ``10.0.0.0/8``, stand here too. None: data URLs alone.
        timeout: seconds for a fetch.
        kept_bytes: of pixel arrays that are kept for the next request.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = MAX_PIXELS
    hosts: tuple[str, ...] = ()
    timeout: float = 10.0
    kept_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True)
class PictureSource:
    """A picture that a request shows: its URL, and where in the body it stands, as ``messages[0].content[1]``."""

    url: str
    where: str


class PictureStore:
    """Reads pictures for one model; safe for threads.

    Args:
        processor: of the vision tower.
        limits: of a picture.
    """

    def __init__(self, processor: ImageProcessor, limits: PictureLimits = PictureLimits()) -> None:  # noqa: B008
        self.processor, self.limits = processor, limits

    def batch(self, sources: Sequence[PictureSource]) -> tuple[ImageBatch | None, tuple[str, ...]]:
        """Return the pixels, each picture once, and the name of every occurrence: the SHA-256 of its bytes.

        Raises:
            ApiError: a picture that cannot be had; the message says which and why.
        """
        raise NotImplementedError
