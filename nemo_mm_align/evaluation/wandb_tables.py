"""Results as a table in the training's run at Weights & Biases."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core.credentials import wandb_login
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.results import Results

log = logging.getLogger(__name__)

RUN_FILE = "wandb.json"
"""In a run's folder: id, project and entity of its run there; those of earlier starts are set aside in run_0, run_1, ..."""
COLUMNS = [
    "method",
    "measure",
    "value",
    "low",
    "high",
    "answers",
    "failed",
    "minus_base",
    "minus_base_low",
    "minus_base_high",
    "p_value",
    "p_corrected",
]
_INIT_TIMEOUT_S = 120


def check_run(run_folder: Path) -> dict[str, str]:
    """Return id, project and entity of a training's run, before anything is computed; "" for what is not said.

    Raises:
        UserError: the folder names none, wandb is not installed, or nothing lets it log in.
    """
    paths = [run_folder / RUN_FILE, *sorted(run_folder.glob(f"run_*/{RUN_FILE}"), key=_written, reverse=True)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{paths[0]}: no such file, so that the training has no run at Weights & Biases. Give the folder of one that logged "
            "there (exp_manager.create_wandb_logger=true), or leave log_to out."
        )
    try:
        found = json.loads(path.read_bytes())
        run = {key: str(found.get(key) or "") for key in ("id", "project", "entity")}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: is broken ({error}). Write id, project and entity into it as JSON.") from None
    if not run["id"]:
        raise UserError(f"{path}: names no id. Write id, project and entity into it as JSON.")
    _wandb()
    if wandb_login(os.environ) is None:
        raise UserError("log_to: nothing lets Weights & Biases log in. Set WANDB_API_KEY, or WANDB_MODE=offline.")
    return run


def _written(path: Path) -> float:
    return path.stat().st_mtime


def log_tables(run_folder: Path, tasks: Mapping[str, Results]) -> None:
    """Add a table per task, and every first measure to the summary, to the run that a training logged to.

    ``WANDB_MODE=offline`` writes below ``<run folder>/wandb``; ``wandb sync`` sends it later.

    Raises:
        UserError: the folder names no run, wandb is not installed, or the service cannot be reached.
    """
    said, wandb = check_run(run_folder), _wandb()
    try:
        run = wandb.init(
            id=said["id"],
            project=said["project"] or None,
            entity=said["entity"] or None,
            dir=str(run_folder),
            resume="allow",
            settings=wandb.Settings(init_timeout=_INIT_TIMEOUT_S, silent=True),
        )
    except (wandb.Error, TimeoutError) as error:
        raise UserError(f"Weights & Biases: {error}. Log in (WANDB_API_KEY), or set WANDB_MODE=offline.") from None
    try:
        tables = {
            f"evaluation/{name}": wandb.Table(columns=COLUMNS, data=list(table_rows(one)))
            for name, one in tasks.items()
        }
        run.log(tables)
        for key, value in summary_values(tasks).items():
            run.summary[key] = value
    finally:
        run.finish()
    log.info("logged %d tables to run %s at Weights & Biases", len(tasks), said["id"])


def table_rows(results: Results) -> Iterator[list[Any]]:
    """Yield `COLUMNS` for each measurement."""
    for method, result in results.methods.items():
        for name, one in result.measurements.items():
            yield [
                *(method, name, one.value, *(bounds_of(one.interval) or (None, None)), one.n, one.failed),
                *(one.minus_base, *(bounds_of(one.minus_base_interval) or (None, None)), one.p_value, one.p_corrected),
            ]


def summary_values(tasks: Mapping[str, Results]) -> dict[str, float]:
    """Return each task's first measure by ``evaluation/<task>/<method>/<measure>``."""
    return {
        f"evaluation/{task}/{method}/{results.primary.name}": value
        for task, results in tasks.items()
        for method, result in results.methods.items()
        if (value := result.value(results.primary.name)) is not None
    }


def _wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError("log_to needs wandb: pip install wandb, or leave log_to out.") from None
    return wandb
