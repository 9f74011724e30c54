"""Finished evaluations beside each other: paired differences, categories, what went from right to wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.core.outputs import folder_to_write
from nemo_mm_align.evaluation.compare_page import comparison_files
from nemo_mm_align.evaluation.compared_task import compare_task
from nemo_mm_align.evaluation.comparison import Comparison
from nemo_mm_align.evaluation.finished import FinishedTask, read_finished

log = logging.getLogger(__name__)


def compare_runs(folders: Sequence[Path], out: Path) -> Path:
    """Compare finished evaluation folders; write comparison.json, report.html and report.md; return the page's path.

    Args:
        folders: of `evaluate`, each with results.json and ``judged/<method>.jsonl`` (several tasks:
            ``judged/<task>/<method>.jsonl``). Later ones are compared with earlier ones.
        out: folder to write.

    Raises:
        UserError: a folder holds no evaluation, or they are not of the same task and prompts; it says which differ.
    """
    names = _names(folders)
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise UserError(f"out={out}: is one of the evaluations, whose report would be lost. Give another folder.")
    finished = {name: read_finished(folder) for name, folder in names.items()}
    tasks, notes = _common_tasks(finished)
    comparison = Comparison(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        folders={name: str(folder) for name, folder in names.items()},
        tasks={task: compare_task(task, {name: of[task] for name, of in finished.items()}) for task in tasks},
        notes=notes,
    )
    html, text = comparison_files(comparison)
    with owned_output(folder_to_write(out)):
        write_text(out / "comparison.json", comparison.model_dump_json(indent=2) + "\n")
        write_text(out / "report.html", html)
        write_text(out / "report.md", text)
    log.info("wrote %s", out / "report.html")
    return out / "report.html"


def _names(folders: Sequence[Path]) -> dict[str, Path]:
    if len(folders) < 2:
        raise UserError("compare needs at least two evaluation folders: compare=[FOLDER,FOLDER].")
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise UserError(f"compare={','.join(names)}: a folder is named twice; give different ones.")
    return dict(zip(names, folders, strict=True))


def _common_tasks(finished: Mapping[str, Mapping[str, FinishedTask]]) -> tuple[list[str], list[str]]:
    every = list(dict.fromkeys(task for of in finished.values() for task in of))
    common = [task for task in every if all(task in of for of in finished.values())]
    if not common:
        said = "; ".join(f"{name} has {', '.join(of)}" for name, of in finished.items())
        raise UserError(f"there is no task that all have: {said}. Compare evaluations of the same task.")
    left_out = [task for task in every if task not in common]
    return common, [f"{task} is not compared: {_without(task, finished)} did not evaluate it." for task in left_out]


def _without(task: str, finished: Mapping[str, Mapping[str, FinishedTask]]) -> str:
    return ", ".join(name for name, of in finished.items() if task not in of)
