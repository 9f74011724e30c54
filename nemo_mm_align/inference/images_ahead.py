"""Images read by a thread while the model is at work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy
import torch

from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.schema.images import ImageProcessor, load_image

MOST = 64
"""Images that are kept ready: 90 MB at 336 pixels a side."""


class ImagesAhead:
    """Images of the prompts that come next; a context manager around its thread.

    Args:
        processor: of the model's vision tower.
        looks: whether this rank's stage looks at images; none is read elsewhere.
    """

    def __init__(self, processor: ImageProcessor, looks: bool) -> None:
        self._processor, self._looks = processor, looks
        self._read: dict[Path, Future[numpy.ndarray]] = {}
        self._pool = ThreadPoolExecutor(max_workers=1)

    def expect(self, paths: Iterable[Path]) -> None:
        """Begin to read the first of these, and forget all others."""
        if self._looks:
            wanted = list(dict.fromkeys(paths))[:MOST]
            for path in self._read.keys() - set(wanted):
                self._read.pop(path).cancel()
            for path in wanted:
                self._reading(path)

    def batch(self, paths: Sequence[Path]) -> ImageBatch | None:
        """Return these images, each once, where this rank's stage looks at them; None elsewhere, and where there are none."""
        if not paths or not self._looks:
            return None
        places = {path: place for place, path in enumerate(dict.fromkeys(paths))}
        reading = [self._reading(path) for path in places]
        pixels_NCHW = numpy.stack([image.result() for image in reading])
        index_K = torch.tensor([places[path] for path in paths])
        return ImageBatch(torch.from_numpy(pixels_NCHW), index_K, tuple(map(str, places)))

    def _reading(self, path: Path) -> Future[numpy.ndarray]:
        if path not in self._read:
            self._read[path] = self._pool.submit(lambda: self._processor(load_image(path)))
        return self._read[path]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
