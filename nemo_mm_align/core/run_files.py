"""Files that a run leaves for others to read: facts, one line of metrics per training step, the layout of its ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemo_mm_align.core.atomic import write_json, write_text

# In a folder of their own: NeMo's exp_manager sets the files beside them aside when a run is resumed.
METRICS_FILE = Path("metrics/training.jsonl")
FACTS_FILE = Path("metrics/run.json")
LENGTH_PLAN_FILE = Path("metrics/length_plan.json")
VALIDATION_FILE = Path("metrics/validation.jsonl")
VALIDATION_PLAN_FILE = Path("metrics/validation_length_plan.json")
GUARDS_FILE = Path("metrics/guards.jsonl")
GUARD_ANSWERS_FILE = Path("metrics/guard_answers.jsonl")
BEST_FILE = Path("metrics/best.json")
RANK_TIMES_FILE = Path("metrics/ranks.jsonl")
IMAGES_FILE = Path(
    "metrics/training.images"
)  # hashes of checked images, which spare a resumed run reading them; can be deleted
DIVERGED_FILE = Path("metrics/diverged.json")

# In the run's folder itself (exp_manager.exp_dir/name): what a job script and the training inside it tell each other.
STOP_FILE = Path("STOP")  # touched from outside: save, then end; the job script removes it at each start
DONE_FILE = Path("DONE")  # written by rank 0 when training has finished; nobody removes it

BEST_LINK = Path("best")  # a link to the best checkpoint, by what validation found
WANDB_FILE = Path("wandb.json")  # id, project and entity of the run at Weights & Biases

# In the launch's results folder: the text of an error that no restart mends. Of the ranks' exit codes a job script learns
# only one.
FAULT_FILE = Path("FAULT")

# In the run's folder: who trains in it (`lock`).
OWNER_FILE = Path("metrics/owner.json")

# By these variables a job script names its files to what runs in it.
STOP_FILE_VARIABLE = "NEMO_MM_ALIGN_STOP_FILE"
FAULT_FILE_VARIABLE = "NEMO_MM_ALIGN_FAULT_FILE"

JOB_VARIABLE = "NEMO_MM_ALIGN_JOB"
"""Name of a launched job of which the scheduler runs one at a time: a start of it may follow a lost one on another machine."""


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Append one line to a metrics file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the complete lines of a metrics file, oldest first; none if there is no file."""
    lines: list[dict[str, float]] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines


def write_facts(run: Path, facts: dict[str, Any]) -> None:
    """Write what a run consists of (method, samples, steps, layout) into its folder."""
    write_json(run / FACTS_FILE, facts, indent=1)


def write_done(run: Path, steps: int) -> None:
    """Mark a training as finished after `steps` steps."""
    write_json(run / DONE_FILE, {"steps": steps}, indent=1)


def write_diverged(run: Path, report: dict[str, Any]) -> None:
    """Write what a training that diverged reports of itself."""
    write_json(run / DIVERGED_FILE, report, indent=1)


def read_facts(run: Path) -> dict[str, Any] | None:
    """Read what `write_facts` wrote; ``None`` if the run has not come so far."""
    return _read_json(run / FACTS_FILE)


def write_layout(answers: Path, layout: dict[str, int]) -> None:
    """Write beside an answers file the layout that its ranks reported."""
    write_text(_layout_path(answers), json.dumps(layout) + "\n")


def read_layout(answers: Path) -> dict[str, int] | None:
    """Read what `write_layout` wrote, if it is there."""
    return _read_json(_layout_path(answers))


def _read_json(path: Path) -> dict[str, Any] | None:
    value: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return value


def _layout_path(answers: Path) -> Path:
    return answers.with_name(f"{answers.stem}.layout.json")
