"""One run at Weights & Biases for all starts of a training: its id stands in the run's folder.

A requeued or resumed training, and whoever logs to the run afterwards, take the id from there.
"""

from __future__ import annotations

import json
import os
import secrets
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.core.run_files import WANDB_FILE

_ALPHABET = string.ascii_lowercase + string.digits
_LENGTH = 8
"""As wandb's own ids."""


def give_run_id(manager: DictConfig, folder: Path) -> None:
    """Put the id of this folder's run into the settings of NeMo's experiment manager, where it logs to Weights & Biases.

    Args:
        folder: of the run. An id that the settings or the environment name counts before the one that stands there.
    """
    if not manager.get("create_wandb_logger") or not manager.get("resume_if_exists"):
        return  # each start has a folder of its own, whose name the manager makes the id
    given = manager.get("wandb_logger_kwargs") or {}
    made = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
    known = given.get("id") or os.environ.get("WANDB_RUN_ID") or read_run(folder).get("id") or made
    with open_dict(manager):
        manager.wandb_logger_kwargs = {**given, "id": known}


def read_run(folder: Path) -> dict[str, Any]:
    """Return what a run's folder says of its run there: id, project, entity; nothing where it does not say.

    The experiment manager sets the files of a start before aside, in folders run_0, run_1 and so on.
    """
    aside = sorted(folder.glob(f"run_*/{WANDB_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in (folder / WANDB_FILE, *aside):
        try:
            stored = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(stored, dict) and stored.get("id"):
            return stored
    return {}


def note_run(folder: Path, loggers: Iterable[Any]) -> None:
    """Write id, project and entity of the run that is logged to into the run's folder; nothing without such a logger."""
    for logger in loggers:
        started = getattr(logger, "_wandb_init", None)
        if started is not None:
            entity = started.get("entity") or os.environ.get("WANDB_ENTITY")
            about = {"id": logger.version, "project": started.get("project"), "entity": entity}
            write_json(folder / WANDB_FILE, about, indent=1)
