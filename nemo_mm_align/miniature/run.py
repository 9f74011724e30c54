"""The miniature from a composed configuration to its report, with a progress display."""

from __future__ import annotations

import logging
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.core.outputs import folder_to_write
from nemo_mm_align.miniature.folders import MiniatureRun
from nemo_mm_align.miniature.outcome import write_outcome
from nemo_mm_align.miniature.pipeline import steps_of
from nemo_mm_align.miniature.settings import MiniatureSettings
from nemo_mm_align.miniature.steps import Step, StepRunner

logger = logging.getLogger(__name__)

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}


class RichDisplay:
    """A bar per step; without a terminal one line per step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._label = ""

    def begin(self, number: int, count: int, step: Step) -> None:
        """Show a new bar."""
        self._label = f"[{number}/{count}] {step.name}"
        self._task = self._progress.add_task(self._label, total=1.0, outcome="")
        if not self._progress.console.is_terminal:
            self._progress.console.print(f"{self._label} ...", markup=False)

    def advance(self, fraction: float) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=fraction)

    def end(self, outcome: str) -> None:
        """Fill the bar and say how it ended."""
        if self._task is not None:
            self._progress.update(self._task, completed=1.0, outcome=outcome)
            self._progress.stop_task(self._task)
        if not self._progress.console.is_terminal:
            self._progress.console.print(f"{self._label}: {outcome}", markup=False)


def run_miniature(values: dict[str, Any]) -> None:
    """Run all steps that are not done yet and write the report.

    Args:
        values: the resolved configuration (``conf/miniature.yaml``).

    Raises:
        UserError: settings that do not fit, or a step that failed; its log is named.
    """
    run = MiniatureRun(read(MiniatureSettings, values))
    console = Console()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[outcome]}"),
    )
    folder_to_write(run.out)
    with owned_output(run.out), Progress(*columns, console=console) as progress:
        StepRunner(run.out, ENVIRONMENT).run(steps_of(run), RichDisplay(progress))
    results, results_path, report_path = write_outcome(run)
    for name, method in results.methods.items():
        shown = (results.primary, *results.columns)
        found = ((measure.label.lower(), method.value(measure.name)) for measure in shown)
        text = ", ".join(f"{label} {value:.2f}" for label, value in found if value is not None)
        console.print(f"{name:10} {text}", highlight=False, soft_wrap=True)
    for name, curve in results.steering.items():
        if curve.spearman is not None:
            console.print(f"steering {name}: Spearman {curve.spearman:.2f}", highlight=False)
    console.print(
        f"results: {results_path.resolve()}\nreport:  {report_path.resolve()}", highlight=False, soft_wrap=True
    )
