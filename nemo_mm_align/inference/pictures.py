"""The pictures of a run's requests: hashed once, remembered beside the answers, so that a run that goes on reads few."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.requests import Key, Request
from nemo_mm_align.schema.answer_provenance import Hashes
from nemo_mm_align.schema.image_hashes import ImageHashes


class Pictures:
    """SHA-256 of the pictures of requests.

    Args:
        out: the answers file; hashes are remembered in ``<out>.images``, which can be deleted.
        requests: of the run.
    """

    def __init__(self, out: Path, requests: Sequence[Request]) -> None:
        self._hashes = ImageHashes(out.with_name(f"{out.stem}.images"))
        self._paths = {request.key: request.encoded.image_paths for request in requests}

    def read(self, keys: Iterable[Key]) -> None:
        """Hash the pictures of some requests, several at a time."""
        paths = dict.fromkeys(path for key in keys for path in self._paths.get(key, ()))
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            list(pool.map(self._hash, paths))
        self._hashes.save()

    def of(self, key: Key) -> Hashes:
        """Return the hashes of a request's pictures as they were when first asked for; "" for one that cannot be read."""
        return tuple(map(self._hash, self._paths.get(key, ())))

    def names(self, key: Key) -> list[str]:
        """Return the paths of a request's pictures."""
        return list(map(str, self._paths.get(key, ())))

    def _hash(self, path: Path) -> str:
        try:
            return self._hashes.of(path)
        except UserError:
            return ""
