"""Checkpoints: weights, optimizer and metadata in one folder that opens at any tensor- and pipeline-parallel size.

`checkpoint_folder` says what lies in it. A folder appears under its name only when it is complete. LoRA checkpoints hold the
trained tensors alone and name the base they belong to. `state/` goes through pickle in places: open only checkpoints of
your own; foreign weights enter as safetensors through `model.huggingface`.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import pickle
import shutil
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.optimizer import MegatronOptimizer
from torch.distributed.checkpoint.api import CheckpointException

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.nested import differing
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.model.head_config import left_out
from nemo_mm_align.model.huggingface_origin import Origin
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import background, runtime
from nemo_mm_align.parallel.background import BackgroundWriter
from nemo_mm_align.parallel.checkpoint_folder import (
    METADATA_FILE,
    STATE_FOLDER,
    TOKENIZER_FOLDER,
    CheckpointMetadata,
    checkpoints_of,
    damage_of,
    is_checkpoint,
    latest_checkpoint,
    read_metadata,
    step_folder,
)
from nemo_mm_align.parallel.first_rank import on_first_rank
from nemo_mm_align.parallel.sharded_state import (
    bytes_to_write,
    state_to_load,
    state_to_save,
    without_absent_extra_states,
    without_head,
)

__all__ = [
    "METADATA_FILE",
    "STATE_FOLDER",
    "TOKENIZER_FOLDER",
    "CheckpointMetadata",
    "check_same_model",
    "checkpoints_of",
    "copy_tokenizer",
    "damage_of",
    "is_checkpoint",
    "keep_newest",
    "latest_checkpoint",
    "load",
    "read_metadata",
    "save",
    "step_folder",
]

logger = logging.getLogger(__name__)

UNTOUCHED = "Checkpoints already written are untouched."

_PARTIAL = ".partial"
_DAMAGED = ".damaged"
_HEADROOM = 1.1


def _check_space(folder: Path, needed: int) -> None:
    """Raise `UserError` where there is too little space."""
    free = shutil.disk_usage(folder).free
    if free < needed * _HEADROOM:
        raise UserError(
            f"{folder}: a checkpoint needs about {needed / 1e9:.3f} GB, but only {free / 1e9:.3f} GB are free. Free some "
            f"space, set checkpoint.keep lower, or choose another exp_manager.exp_dir. {UNTOUCHED}"
        )


def save(
    run: str | Path,
    model: Llava,
    metadata: CheckpointMetadata,
    optimizer: MegatronOptimizer | None = None,
    trainer_state: dict[str, Any] | None = None,
    tokenizer_source: str | Path | None = None,
    writer: BackgroundWriter | None = None,
) -> Path:
    """Write a checkpoint of this step; all ranks call it.

    Args:
        run: the run's checkpoints folder, the same for all ranks.
        tokenizer_source: folder whose tokenizer and processor files travel along.
        writer: writes in the background; the checkpoint is complete only after its `poll` or `finish` said so.

    Returns:
        The checkpoint's folder, complete unless `writer` was given.

    Raises:
        UserError: not enough disk space, or the file system refused; earlier checkpoints are untouched.
    """
    background.install()
    if writer is not None:
        writer.finish()
    final = step_folder(run, metadata.step)
    partial = final.with_name(final.name + _PARTIAL)
    on_first_rank(lambda: _prepare(partial), UNTOUCHED)
    state = state_to_save(model, optimizer, adapted=metadata.lora is not None)
    state["trainer"] = trainer_state or {}

    def complete() -> None:
        on_first_rank(lambda: _finish(partial, final, metadata, tokenizer_source), UNTOUCHED)

    try:
        needed = bytes_to_write(state)
        on_first_rank(lambda: _check_space(partial, needed))
        request = dist_checkpointing.save(state, str(partial / STATE_FOLDER), async_sharded_save=writer is not None)
        if writer is None:
            complete()
        else:
            request.add_finalize_fn(complete)
            writer.start(request, lambda error: _give_up(partial, error))
    except BaseException as error:  # torch's CheckpointException is no Exception
        _give_up(partial, error)
        raise
    return final


def _give_up(partial: Path, error: BaseException) -> None:
    """Remove what was written; raise `UserError` where the disk is full, `RuntimeError` where the format's writer failed."""
    _discard(partial)
    if _is_disk_full(error):
        raise UserError(
            f"{partial}: the disk is full. Free some space or choose another exp_manager.exp_dir; checkpoints already "
            "written are untouched."
        ) from error
    if isinstance(error, CheckpointException):
        raise RuntimeError(f"{partial}: was not written; checkpoints already written are untouched. {error}") from error


def _is_disk_full(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _prepare(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    (partial / STATE_FOLDER).mkdir(parents=True)


def _finish(partial: Path, final: Path, metadata: CheckpointMetadata, tokenizer_source: str | Path | None) -> None:
    if tokenizer_source is not None:
        copy_tokenizer(tokenizer_source, partial / TOKENIZER_FOLDER)
    path = partial / METADATA_FILE
    path.write_text(json.dumps(metadata.content(), indent=1) + "\n")
    if final.exists() and damage_of(final) is not None:
        aside = _unused(final)
        os.rename(final, aside)
        logger.warning("%s was damaged: what is left of it is %s now", final, aside)
    _remove(final)
    os.rename(partial, final)


def _unused(final: Path) -> Path:
    """A name beside a damaged checkpoint that nothing has yet, under which it is no checkpoint any more."""
    names = (final.with_name(f"{final.name}{_DAMAGED}{number or ''}") for number in itertools.count())
    return next(path for path in names if not path.exists())


def _remove(folder: Path) -> None:
    """Remove a checkpoint, first its name: a kill in between leaves the remains of one, not a damaged one."""
    if folder.exists():
        remains = folder.with_name(f"{folder.name}.removed{_PARTIAL}")
        shutil.rmtree(remains, ignore_errors=True)
        os.rename(folder, remains)
        shutil.rmtree(remains, ignore_errors=True)


def _discard(partial: Path) -> None:
    if runtime.rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)


def copy_tokenizer(source: str | Path, target: str | Path) -> None:
    """Copy tokenizer, processor and generation files of a model folder, leaving its weights.

    Of weights in Hugging Face format, names, number formats and the tensors that nobody computes travel along as well, so
    that an export needs the first folder no more.
    """
    source, target = Path(source), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    if Origin.is_in(source):
        Origin.of_folder(source).save(target)
        return
    for path in source.iterdir():
        if path.is_file() and path.suffix in (".json", ".model", ".txt", ".jinja") and "safetensors" not in path.name:
            shutil.copyfile(path, target / path.name)


def keep_newest(run: str | Path, count: int, spared: Collection[int] = ()) -> None:
    """Remove all but the newest `count` complete checkpoints, and the remains of interrupted saves; rank 0 acts.

    Damaged ones do not count, and stay.

    Args:
        spared: steps whose checkpoints stay in any case.
    """
    if runtime.rank() == 0:
        stays = {step_folder(run, step) for step in spared}
        for path in checkpoints_of(run)[:-count]:
            if path not in stays:
                _remove(path)
        for path in Path(run).glob(f"step_*{_PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)
    torch.distributed.barrier()


def check_same_model(metadata: CheckpointMetadata, config: LlavaConfig, folder: str | Path) -> None:
    """Raise `UserError` naming the sizes in which a checkpoint's model differs from the one to be loaded."""
    here = json.loads(json.dumps(config.to_dict()))
    found = [item for item in differing(metadata.model, here) if item[0] != "name"]
    if found:
        listed = ", ".join(f"{name} {theirs} (here {ours})" for name, theirs, ours in found[:6])
        raise UserError(f"{folder}: checkpoint of another model: {listed}. Choose the model it was trained from.")


def load(
    folder: str | Path, model: Llava, optimizer: MegatronOptimizer | None = None
) -> tuple[CheckpointMetadata, dict[str, Any]]:
    """Load weights, and with `optimizer` its state, into a built model at whatever layout it has; all ranks call it.

    For a LoRA checkpoint the model must have the same adapters and its base already loaded; a complete checkpoint may
    become the base of a model with fresh adapters. A head of other outputs than the checkpoint's stays as it was drawn.

    Returns:
        Metadata and the trainer state that was saved.

    Raises:
        UserError: no complete checkpoint, another model, adapters of another shape, with an optimizer another head, or files
            that are damaged inside.
    """
    metadata = read_metadata(folder)
    check_same_model(metadata, model.model_config, folder)
    adapted = metadata.lora is not None
    if adapted or optimizer is not None:
        _check_adapters(metadata, model, folder)
    state = state_to_load(model, optimizer, adapted)
    if not _same_head(metadata, model, folder, must_be=optimizer is not None):
        state["model"] = without_head(state["model"])
    if model.engine.fp8:
        state["model"] = without_absent_extra_states(state["model"], Path(folder) / STATE_FOLDER)
    expected = set(state["model"])
    loaded = _read_state(state, Path(folder))
    result = model.load_state_dict(loaded["model"], strict=False)
    missing = [name for name in result.missing_keys if name in expected]
    if missing or result.unexpected_keys:
        raise UserError(
            f"{folder}: does not fit the model: missing {missing[:3]}, unknown {result.unexpected_keys[:3]}."
        )
    if optimizer is not None:
        # fp32 copies of bf16 weights come from here: made anew from the weights they would lose what bf16 rounds off
        optimizer.load_state_dict(loaded["optimizer"])
    return metadata, loaded.get("trainer", {})


def _read_state(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = dist_checkpointing.load(state, str(folder / STATE_FOLDER))
    except (CheckpointException, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"{folder}: this checkpoint is damaged: its files have their sizes, but cannot be read ({reason}). Restore it from "
            "a copy, or move it away: the same command then goes on from the one before it."
        ) from error
    return loaded


def _same_head(metadata: CheckpointMetadata, model: Llava, folder: str | Path, must_be: bool) -> bool:
    """Whether the model's head is the checkpoint's; raise `UserError` where it must be and is not."""
    here = None if model.head_config is None else model.head_config.to_dict()
    if here == metadata.head:
        return True
    if must_be:
        raise UserError(
            f"{folder}: its head is {metadata.head}, the model's {here}. Train with the recipe and attribute schema that the "
            "checkpoint was trained with, or choose another exp_manager.name."
        )
    if metadata.head is not None and runtime.rank() == 0:
        logger.warning("%s", left_out(folder, metadata.head, here))
    return False


def _check_adapters(metadata: CheckpointMetadata, model: Llava, folder: str | Path) -> None:
    here = None if model.lora is None else json.loads(json.dumps({**vars(model.lora)}))
    stored = metadata.lora
    relevant = ("rank", "alpha", "targets")
    if (here is None) != (stored is None) or (here and stored and any(here[key] != stored[key] for key in relevant)):
        raise UserError(
            f"{folder}: its adapters are {stored and {key: stored[key] for key in relevant}}, the model has "
            f"{here and {key: here[key] for key in relevant}}. Set model.lora to what the checkpoint was trained with."
        )
