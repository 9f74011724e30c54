"""Embeddings of pictures that were encoded before, known by name, so that a picture asked again needs no pass of the tower.

Every rank of the first stage keeps the same, since all are told the same. The least recently used one goes first.

Shapes: N pictures, K occurrences, T tokens per picture, H hidden.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_mm_align.model.llava import Llava

IMAGE_BYTES = 256 * 2**20
"""Some 50 pictures of LLaVA-1.5-7B in bf16."""


class ImageFeatures:
    """What the tower and the projector of this stage make of pictures.

    Args:
        model: of the first stage.
        capacity: bytes of embeddings to keep; 0 keeps none.

    Attributes:
        asked, found: occurrences of pictures so far, and how many of these needed not be encoded.
    """

    def __init__(self, model: Llava, capacity: int) -> None:
        self._model, self._capacity = model, capacity
        self._device = next(model.parameters()).device
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self.asked = self.found = 0

    @property
    def bytes(self) -> int:
        """How much is kept."""
        return sum(kept.nbytes for kept in self._kept.values())

    def of(self, pixels_NCHW: Tensor, index_K: Tensor, names: Sequence[str] = ()) -> Tensor:
        """Return the embeddings of each occurrence, [K, T, H].

        Args:
            pixels_NCHW: normalised.
            index_K: of each occurrence, its place in `pixels_NCHW`.
            names: what tells each of `pixels_NCHW` from others; none: it is encoded, and not kept.
        """
        encoded, embeddings_NTH = (
            self._known(pixels_NCHW, names) if names and self._capacity else (len(pixels_NCHW), None)
        )
        if embeddings_NTH is None:
            embeddings_NTH = self._model.encode_images(pixels_NCHW.to(self._device))
        self.asked += len(index_K)
        self.found += len(index_K) - encoded
        return embeddings_NTH[index_K.to(self._device)]

    def _known(self, pixels_NCHW: Tensor, names: Sequence[str]) -> tuple[int, Tensor]:
        """Return how many pictures had to be encoded, and the embeddings of all, [N, T, H]."""
        new: dict[str, int] = {}
        for place, name in enumerate(names):
            if name not in self._kept:
                new.setdefault(name, place)
        found = {name: self._kept[name] for name in names if name not in new}
        if new:
            pixels_NCHW = pixels_NCHW if len(new) == len(names) else pixels_NCHW[list(new.values())]
            found |= zip(new, self._model.encode_images(pixels_NCHW.to(self._device)), strict=True)
        embeddings_NTH = torch.stack([found[name] for name in names])
        for name in dict.fromkeys(names):
            self._keep(name, found[name])
        return len(new), embeddings_NTH

    def _keep(self, name: str, embeddings_TH: Tensor) -> None:
        if name in self._kept:
            self._kept.move_to_end(name)
        elif embeddings_TH.nbytes <= self._capacity:
            while self.bytes + embeddings_TH.nbytes > self._capacity:
                self._kept.popitem(last=False)
            self._kept[name] = embeddings_TH.clone()  # else what was encoded with it stays as well
