"""Writing safetensors files block by block: header and bytes are ours, so that no whole shard is ever in memory."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from nemo_mm_align.core.errors import UserError, is_full_disk
from nemo_mm_align.core.outputs import check_unused

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""safetensors' names of number formats."""

_log = logging.getLogger(__name__)


def dtype_name(dtype: torch.dtype) -> str:
    """Return safetensors' name of a torch dtype."""
    return next(name for name, kind in DTYPES.items() if kind == dtype)


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: its key in the file, safetensors' name of its dtype, its shape."""

    key: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor's data."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


class ShardWriter:
    """Writes tensors in the order of `entries` to ``NAME.safetensors``, or to ``NAME-00001-of-000NN...`` and an index.

    Args:
        folder: an existing folder; give it its final name only after `close` (see `new_folder`).
        entries: all tensors, known before the first byte; those of wider dtypes first keep every tensor aligned.
        stem: NAME.
        max_shard_bytes: a shard takes no further tensor beyond this size.
    """

    def __init__(
        self, folder: Path, entries: Sequence[Entry], stem: str = "model", max_shard_bytes: int = 5_000_000_000
    ) -> None:
        self._folder, self._stem = folder, stem
        self._shards = _divide(entries, max_shard_bytes)
        self._file: BinaryIO | None = None
        self._shard = -1
        self._pending: list[Entry] = []
        self._left = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._file is not None:
            self._file.close()

    def write(self, block: Tensor) -> None:
        """Append the next elements of the current tensor; blocks of one tensor never reach into the next one."""
        if self._left == 0:
            self._next_tensor()
        assert self._file is not None
        data = block.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
        assert data.nbytes <= self._left, "a block is longer than what is left of its tensor"
        self._file.write(data.data)
        self._left -= data.nbytes

    def close(self) -> None:
        """Finish the last shard and write the index."""
        if self._shard < 0 and not self._shards[0]:
            self._open_next_shard()  # a file without tensors is a file all the same
        assert self._left == 0 and not self._pending and self._shard + 1 == len(self._shards), "tensors are missing"
        self._finish_shard()
        if len(self._shards) > 1:
            self._write_index()

    def _next_tensor(self) -> None:
        if not self._pending:
            self._open_next_shard()
        self._left = self._pending.pop(0).num_bytes

    def _open_next_shard(self) -> None:
        self._finish_shard()
        self._shard += 1
        self._pending = list(self._shards[self._shard])
        self._file = (self._folder / self._name(self._shard)).open("wb")
        self._file.write(_header(self._pending))

    def _finish_shard(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _name(self, shard: int) -> str:
        count = len(self._shards)
        middle = f"-{shard + 1:05d}-of-{count:05d}" if count > 1 else ""
        return f"{self._stem}{middle}.safetensors"

    def _write_index(self) -> None:
        weight_map = {entry.key: self._name(i) for i, shard in enumerate(self._shards) for entry in shard}
        total = sum(entry.num_bytes for shard in self._shards for entry in shard)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        path = self._folder / f"{self._stem}.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _divide(entries: Sequence[Entry], limit: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.num_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.num_bytes
    return shards


def _header(entries: Sequence[Entry]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        start, end = end, end + entry.num_bytes
        header[entry.key] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """Yield a folder that takes the name `target` when the block ends well and vanishes when it does not.

    Raises:
        UserError: `target` exists and is not empty, or the disk is full or refuses.
    """
    target = Path(target)
    check_unused(target)
    partial = target.with_name(f"{target.name}.partial")
    try:
        if partial.exists():
            _log.warning("removing %s, left by an interrupted run", partial)
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(_describe(error, target)) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _describe(error: OSError, target: Path) -> str:
    if is_full_disk(error):
        return f"{target}: the disk is full; nothing was left behind. Free some space or choose another folder."
    return f"{target}: cannot be written ({error.strerror or error}). Choose another folder."
