"""The pictures of requests: fetched where they lie, decoded once, known again by their content.

Shapes: N pictures, C channels, H height, W width, K occurrences.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.schema.images import MAX_PIXELS, ImageProcessor, image_of_bytes
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.fetching import USUAL_PORTS, fetch

NAME = "picture"
"""Of a picture in the messages of what decodes it."""


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

    url: str = field(repr=False)
    where: str


class PictureStore:
    """Reads pictures for one model; safe for threads.

    Args:
        processor: of the vision tower.
        limits: of a picture.
    """

    def __init__(self, processor: ImageProcessor, limits: PictureLimits | None = None) -> None:
        self.processor, self.limits = processor, limits or PictureLimits()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self._under_way: dict[str, Future[Tensor]] = {}

    @property
    def kept_bytes(self) -> int:
        """Of the pixel arrays that are kept now."""
        return self._bytes

    def batch(self, sources: Sequence[PictureSource]) -> tuple[ImageBatch | None, tuple[str, ...]]:
        """Return the pixels, each picture once, and the name of every occurrence: the SHA-256 of its bytes.

        Raises:
            ApiError: a picture that cannot be had; the message says which and why.
        """
        known = dict[str, str]()  # a picture that is shown again comes with the same URL
        pixels, names = dict[str, Tensor](), list[str]()
        for source in sources:
            if source.url not in known:
                known[source.url], array_CHW = self._read(source)
                pixels[known[source.url]] = array_CHW
            names.append(known[source.url])
        if not names:
            return None, ()
        places = {name: place for place, name in enumerate(pixels)}
        index_K = torch.tensor([places[name] for name in names])
        return ImageBatch(torch.stack(list(pixels.values())), index_K, tuple(pixels)), tuple(names)

    def _read(self, source: PictureSource) -> tuple[str, Tensor]:
        """Name and pixels_CHW."""
        try:
            data = self._bytes_of(source.url)
            name = hashlib.sha256(data).hexdigest()
            return name, self._pixels(name, data)
        except UserError as error:
            raise _fault(source, error) from None

    def image(self, source: PictureSource) -> Image.Image:
        """Return a picture as it is, RGB and upright; raise `ApiError` as `batch` does."""
        try:
            return image_of_bytes(self._bytes_of(source.url), NAME, self.limits.max_pixels)
        except UserError as error:
            raise _fault(source, error) from None

    def _bytes_of(self, url: str) -> bytes:
        scheme = url[:8].partition(":")[0].lower()
        if scheme == "data":
            return _decode(url, self.limits.max_bytes)
        if scheme in USUAL_PORTS:
            return fetch(url, self.limits.hosts, self.limits.max_bytes, self.limits.timeout)
        raise UserError(f"{shorten(url, 40)!r} is no URL that is read here. Send it as data:image/png;base64,...")

    def _pixels(self, name: str, data: bytes) -> Tensor:
        """Those of a known picture, or of one that another thread decodes at the moment; else decoded here."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
            theirs = self._under_way.get(name)
            mine = self._under_way.setdefault(name, Future()) if theirs is None else None
        if mine is None:
            assert theirs is not None
            return theirs.result()
        try:
            pixels_CHW = torch.from_numpy(self.processor(image_of_bytes(data, NAME, self.limits.max_pixels)))
        except BaseException as error:
            self._done(name)
            mine.set_exception(error)
            raise
        self._done(name, pixels_CHW)
        mine.set_result(pixels_CHW)
        return pixels_CHW

    def _done(self, name: str, pixels_CHW: Tensor | None = None) -> None:
        with self._lock:
            del self._under_way[name]
            if pixels_CHW is None or pixels_CHW.nbytes > self.limits.kept_bytes:
                return
            self._kept[name] = pixels_CHW
            self._bytes += pixels_CHW.nbytes
            while self._bytes > self.limits.kept_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes


def _fault(source: PictureSource, error: UserError) -> ApiError:
    text = str(error).removeprefix(f"{NAME}: ")
    return ApiError(400, f"{source.where}: the picture: {text}", source.where)


def _decode(url: str, max_bytes: int) -> bytes:
    """The bytes of a data URL in base64."""
    head, comma, _ = url[:200].partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise UserError("a data URL begins with data:image/png;base64, (or another type); this one does not.")
    if (len(url) - len(head)) * 3 // 4 > max_bytes + 3:
        raise UserError(f"has more than {max_bytes:,} bytes. Make it smaller.")
    try:
        data = base64.b64decode("".join(url[len(head) + 1 :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"is no base64 ({error}). Encode the file's bytes anew.") from None
    if len(data) > max_bytes:
        raise UserError(f"has {len(data):,} bytes; at most {max_bytes:,} are read. Make it smaller.")
    return data
