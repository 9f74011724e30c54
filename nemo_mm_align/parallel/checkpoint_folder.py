"""Checkpoint folders as files: which there are, which are complete, what they say of themselves; needs no torch.

    step_00000120/
      metadata.json   model sizes, adapters, template, attribute schema, recipe, base model and its fingerprint
      tokenizer/      Hugging Face tokenizer and image-processor files
      state/          megatron-core's torch_dist format: model, optimizer, trainer state

A folder gets its name when it is complete. What is damaged in it nevertheless was damaged afterwards (a copy that was cut
short, a disk that lost a file): a run then goes on from the newest complete one, and nothing of the damaged one is removed.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.processes import this_process
from nemo_mm_align.parallel.checkpoint_metadata import METADATA_FILE, CheckpointMetadata, LaterFormat, read_metadata

logger = logging.getLogger(__name__)

__all__ = [
    "METADATA_FILE",
    "STATE_FOLDER",
    "TOKENIZER_FOLDER",
    "CheckpointMetadata",
    "checkpoints_of",
    "damage_of",
    "is_checkpoint",
    "latest_checkpoint",
    "read_metadata",
    "shard_sizes",
    "step_folder",
    "step_folders",
]

STATE_FOLDER, TOKENIZER_FOLDER = "state", "tokenizer"
_SHARDS_FILE, _COMMON_FILE, _FORMAT_FILE = ".metadata", "common.pt", "metadata.json"
_STEP_FOLDER = re.compile(r"^step_(\d{8})$")


def step_folder(run: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies within a run's checkpoints folder."""
    return Path(run) / f"step_{step:08d}"


def step_folders(run: str | Path) -> list[Path]:
    """Checkpoints of a run, complete or damaged, oldest first."""
    if not Path(run).is_dir():
        return []
    return sorted(path for path in Path(run).iterdir() if _STEP_FOLDER.match(path.name) and path.is_dir())


def checkpoints_of(run: str | Path) -> list[Path]:
    """Complete checkpoints of a run that can be opened here, oldest first."""
    return [path for path in step_folders(run) if _opens(path)]


def _opens(folder: Path) -> bool:
    try:
        return damage_of(folder) is None
    except LaterFormat:
        return False


def is_checkpoint(folder: str | Path) -> bool:
    """Whether `folder` is meant to be a checkpoint of this system, complete or damaged."""
    folder = Path(folder)
    if (folder / METADATA_FILE).is_file() and (folder / STATE_FOLDER).is_dir():
        return True
    is_step = _STEP_FOLDER.match(folder.absolute().name) is not None and folder.is_dir()
    return is_step and not (folder / "config.json").is_file()  # an exported model may have any name


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Return `folder` itself if it is a checkpoint, else the newest complete one in it or in its ``checkpoints``.

    A damaged one is passed over with a warning.

    Raises:
        UserError: `folder` itself is a damaged one, or all that it holds are; or the newest one is of a later format.
    """
    folder = Path(folder)
    if is_checkpoint(folder):
        damage = damage_of(folder)
        if damage is not None:
            raise UserError(_describe(folder, damage, _newest_complete(step_folders(folder.absolute().parent))))
        return folder
    found = step_folders(folder) or step_folders(folder / "checkpoints")
    newest = _newest_complete(found)
    damaged = {path: damage_of(path) for path in found if newest is None or path > newest}
    if damaged and newest is None:
        path, damage = list(damaged.items())[-1]
        raise UserError(_describe(path, str(damage), None))
    for path, damage in damaged.items():
        if this_process().rank == 0:
            logger.warning("%s is damaged (%s) and passed over: %s is the newest complete one", path, damage, newest)
    return newest


def _newest_complete(folders: list[Path]) -> Path | None:
    return next((path for path in reversed(folders) if damage_of(path) is None), None)


def _describe(folder: Path, damage: str, other: Path | None) -> str:
    if other is not None:
        remedy = f"Restore it from a copy, or go on from {other}, the newest complete one beside it."
    else:
        remedy = "No complete one lies beside it: restore it from a copy, or move it away to begin anew."
    return f"{folder}: this checkpoint is damaged ({damage}). {remedy}"


def damage_of(folder: str | Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, in words; None where all are there in their full size.

    The contents of weights are not read, which would take as long as loading them.

    Raises:
        LaterFormat: a later version of this package wrote it: not damaged, and nothing to pass over.
    """
    folder = Path(folder)
    state = folder / STATE_FOLDER
    names = [METADATA_FILE, *(f"{STATE_FOLDER}/{name}" for name in (_FORMAT_FILE, _SHARDS_FILE, _COMMON_FILE))]
    for name in names:
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (folder / name).stat().st_size == 0:
            return f"{name} is empty"
    try:
        read_metadata(folder)
        json.loads((state / _FORMAT_FILE).read_bytes())
        sizes = shard_sizes(state / _SHARDS_FILE)
        common = _damage_of_archive(state / _COMMON_FILE)
    except LaterFormat:
        raise
    except (OSError, ValueError) as error:
        return str(error).splitlines()[0]
    return common or _damage_of_shards(state, sizes)


def _damage_of_shards(state: Path, sizes: dict[str, int]) -> str | None:
    for name, size in sizes.items():
        path = state / name
        if not path.is_file():
            return f"{STATE_FOLDER}/{name} is missing"
        if path.stat().st_size < size:
            return f"{STATE_FOLDER}/{name} is cut short: {path.stat().st_size:,} of {size:,} bytes"
    return None


def _damage_of_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError):
        wrong = "its directory"
    return None if wrong is None else f"{STATE_FOLDER}/{path.name} is cut short or changed ({wrong})"


class _Plain:
    """Takes the place of every class in a file that is read for plain values only."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    """Builds containers alone: nothing of what a file names is imported or run."""

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Plain


def shard_sizes(path: Path) -> dict[str, int]:
    """Return how many bytes each file of a torch_dist checkpoint must have at least.

    Args:
        path: its ``.metadata``, a pickled `torch.distributed.checkpoint.metadata.Metadata`.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        stored = vars(_Unpickler(io.BytesIO(path.read_bytes())).load())["storage_data"]
        places = [vars(place) for place in stored.values()]
        ends = [(str(place["relative_path"]), int(place["offset"]) + int(place["length"])) for place in places]
    except Exception as error:  # a pickle that was cut or changed can fail in any way
        raise ValueError(f"{STATE_FOLDER}/{path.name} cannot be read: {type(error).__name__}") from None
    sizes: dict[str, int] = {}
    for name, end in ends:
        sizes[name] = max(end, sizes.get(name, 0))
    return sizes
