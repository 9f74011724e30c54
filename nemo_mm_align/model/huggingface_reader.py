"""Reading safetensors shards tensor by tensor, straight from the mapped files, after checks that spare a long wait."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folder_files import REMEDY, file_fault, read_object
from nemo_mm_align.model.huggingface_names import Piece, canonical_name

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "BF16", "F16")
"""Number formats of weights that are computed with."""

_log = logging.getLogger(__name__)


class WeightFiles:
    """The tensors of a Hugging Face folder, addressed by transformers' present module names.

    All headers are read at once, so that missing, truncated or foreign files show before any tensor is copied.

    Args:
        paths: safetensors files.
        expected: for each key of the folder's index the file that must hold it.
        strip: prefix to take off the keys.

    Raises:
        UserError: a file is missing, truncated or not safetensors; the message names it.
    """

    def __init__(self, paths: Iterable[Path], expected: dict[str, str] | None = None, strip: str = "") -> None:
        self._files: dict[str, tuple[Any, str, Path]] = {}
        self._folder = Path()
        for path in paths:
            handle, self._folder = _open(path), path.parent
            for key in handle.keys():  # noqa: SIM118 - not a dict
                name = canonical_name(key.removeprefix(strip))
                if name in self._files:
                    _, other, first = self._files[name]
                    raise UserError(
                        f"{path}: tensor {key} is also {other} in {first.name}; which of them counts? {REMEDY}"
                    )
                self._files[name] = (handle, key, path)
        for key, file in (expected or {}).items():
            found = self._files.get(canonical_name(key))
            if found is None or found[2].name != file:
                raise UserError(f"{file}: holds no tensor {key}, which {INDEX} places there. {REMEDY}")

    @classmethod
    def of_folder(cls, folder: str | Path) -> WeightFiles:
        """Open ``model.safetensors``, else the shards that ``model.safetensors.index.json`` names, as transformers does."""
        folder = Path(folder)
        if (folder / SINGLE).exists() and (folder / INDEX).exists():
            _log.warning("%s: %s is opened, as transformers does; %s beside it is not read", folder, SINGLE, INDEX)
        elif (folder / INDEX).exists():
            expected = read_object(folder / INDEX, "its index").get("weight_map")
            if not isinstance(expected, dict) or not expected:
                raise UserError(f"{folder / INDEX}: has no weight_map. {REMEDY}")
            for key, name in expected.items():
                if not isinstance(name, str) or not name or Path(name).name != name:
                    raise UserError(
                        f"{folder / INDEX}: places {key} in {name!r}, which is no file of the folder. {REMEDY}"
                    )
            return cls([folder / name for name in sorted(set(expected.values()))], expected)
        if not (folder / SINGLE).exists() and any(folder.glob("pytorch_model*.bin")):
            raise UserError(
                f"{folder}: only pytorch_model*.bin, which can run code when opened; save the model with "
                "safe_serialization=True."
            )
        return cls([folder / SINGLE])

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def key(self, name: str) -> str:
        """The tensor's key in its file."""
        return self._files[name][1]

    def path(self, name: str) -> Path:
        """The file that holds the tensor."""
        return self._files[name][2]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        handle, key, _ = self._files[name]
        return tuple(handle.get_slice(key).get_shape())

    def dtype(self, name: str) -> str:
        """Number format in safetensors' words, for example ``BF16``."""
        handle, key, _ = self._files[name]
        return str(handle.get_slice(key).get_dtype())

    def check_finite(self, name: str, part: Tensor) -> None:
        """Raise `UserError` naming the tensor where a part of it that was read holds NaN or infinity."""
        if torch.isfinite(part.sum(dtype=torch.float64 if part.dtype == torch.float64 else torch.float32)):
            return  # one pass without a copy; a sum that is none may also be of numbers that are too large for it
        if not torch.isfinite(part).all():
            bad = int((~torch.isfinite(part)).sum())
            raise UserError(
                f"{self.path(name)}: tensor {self.key(name)} holds {bad:,} values that are no finite numbers (NaN or infinity), "
                "so every answer would be empty and every loss NaN. Give the weights of an earlier, sound checkpoint."
            )

    def read(self, name: str) -> Tensor:
        """The whole tensor, mapped from the file."""
        handle, key, path = self._files[name]
        try:
            tensor: Tensor = handle.get_tensor(key)
        except SafetensorError as error:
            raise UserError(f"{path}: tensor {key} cannot be read ({error}). {REMEDY}") from None
        return tensor

    def read_part(self, name: str, split: int, start: int, stop: int) -> Tensor:
        """Indices `start` to `stop` - 1 along dimension `split`; only they are read."""
        handle, key, path = self._files[name]
        try:
            part: Tensor = handle.get_slice(key)[(slice(None),) * split + (slice(start, stop),)]
        except SafetensorError as error:
            raise UserError(f"{path}: tensor {key} cannot be read ({error}). {REMEDY}") from None
        return part

    def check(self, pieces: Iterable[Piece]) -> None:
        """Raise `UserError` naming file and tensor where one is missing or has another shape or no usable number format."""
        for piece in pieces:
            self.check_names([piece.name])
            if self.shape(piece.name) != piece.shape:
                raise UserError(
                    f"{self.path(piece.name)}: tensor {self.key(piece.name)} has shape {list(self.shape(piece.name))}, "
                    f"the configuration asks for {list(piece.shape)}. Use the one that belongs to these weights."
                )
            if self.dtype(piece.name) not in FLOATS:
                raise UserError(
                    f"{self.path(piece.name)}: tensor {self.key(piece.name)} has the number format "
                    f"{self.dtype(piece.name)}; this engine computes with {', '.join(FLOATS)}. Quantised weights are not "
                    "opened: give the model before quantisation, or save it dequantised."
                )

    def check_names(self, names: Iterable[str]) -> None:
        """Raise `UserError` naming the first tensor that no file holds."""
        for name in names:
            if name not in self:
                names_of_files = sorted({path.name for _, _, path in self._files.values()})
                files = ", ".join(names_of_files[:4]) + (" ..." if len(names_of_files) > 4 else "")
                raise UserError(
                    f"{self._folder}: tensor {name} is in none of {files}, "
                    "but the configuration asks for it. Is the folder complete, and config.json that of these weights?"
                )


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, so the folder is incomplete. {REMEDY}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: {_fault(path, error)} {REMEDY}") from None


def _fault(path: Path, error: Exception) -> str:
    pointer = file_fault(path)
    if pointer is not None and "Git LFS" in pointer:
        return pointer.removeprefix(f"{path}: ")
    size = path.stat().st_size if path.is_file() else 0
    if size >= 8:
        with path.open("rb") as file:
            (header,) = struct.unpack("<Q", file.read(8))
        if size < 8 + header or "incomplete" in str(error).lower() or "covered" in str(error).lower():
            return f"truncated or not a safetensors file ({size:,} bytes; {error})."
    return f"not a safetensors file ({error})."
