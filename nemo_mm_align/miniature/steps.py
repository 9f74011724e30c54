"""Steps of a run: commands that are started once, remembered when they have finished, and repeated if they change."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.orphans import end_with_parent
from nemo_mm_align.core.repository import SCRIPTS
from nemo_mm_align.workflow.overrides import overrides_of
from nemo_mm_align.workflow.stages import STAGES

logger = logging.getLogger(__name__)


RANKED = {*(name for name, stage in STAGES.items() if stage.ranked), "probe"}
"""Scripts that are started in many processes."""
_TAIL_LINES = 30
_PATIENCE_S, _POLL_S = 60.0, 0.5


@dataclass(frozen=True)
class Step:
    """One step of a run: a stage of the loop for one model or seed, or what prepares it.

    Args:
        name: also the name of its log and its marker.
        command: what to start, or a function of this process.
        outputs: files and folders that it makes; removed before it is started with other arguments than before.
        depends: names of steps whose repetition makes this one stale.
        settings: beside the command, what its results depend on.
        progress: how much of it is done, from 0 to 1, as its files show.
    """

    name: str
    command: Sequence[str] | Callable[[], None]
    outputs: Sequence[Path]
    depends: Sequence[str] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    progress: Callable[[], float] | None = None

    @property
    def identity(self) -> str:
        """What it was started with; another identity means other results."""
        command = [] if callable(self.command) else list(self.command)
        return json.dumps([command, self.settings], sort_keys=True, default=str)


class Display(Protocol):
    """Shows a run to its user."""

    def begin(self, number: int, count: int, step: Step) -> None:
        """A step starts."""
        ...

    def advance(self, fraction: float) -> None:
        """So much of the step is done, from 0 to 1."""
        ...

    def end(self, outcome: str) -> None:
        """The step ended: its duration, or that it was done before."""
        ...


class StepRunner:
    """Runs steps in order, skipping those whose marker stands; a killed run goes on where it was.

    Args:
        folder: holds ``logs/`` and ``done/``.
        environment: variables for the commands beside this process's own.
        bound: whether commands end with this process, even where it is killed; for a process without other threads.
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None, bound: bool = False) -> None:
        self.folder, self.bound = folder, bound
        self.environment = {**os.environ, **(environment or {})}
        self._stopped_by: int | None = None

    def run(self, steps: Sequence[Step], display: Display) -> None:
        """Run what is not done yet.

        Raises:
            UserError: a command failed (its log is named, its last lines are shown), or the run was asked to stop.
        """
        repeated: set[str] = set()
        for number, step in enumerate(steps, start=1):
            display.begin(number, len(steps), step)
            fresh = not (set(step.depends) & repeated)
            if fresh and self._is_done(step):
                display.end("done before")
                continue
            started, computed = time.monotonic(), _cpu_seconds()
            self._prepare(step, fresh)
            self._execute(step, display)
            self._mark(step, time.monotonic() - started, _cpu_seconds() - computed)
            repeated.add(step.name)
            display.end(f"{time.monotonic() - started:.0f} s")

    def seconds(self, name: str) -> float | None:
        """How long a finished step took."""
        return self._noted(name, "seconds")

    def cpu_seconds(self, name: str) -> float | None:
        """Seconds that cores computed for a finished step, in user and system mode."""
        return self._noted(name, "cpu_seconds")

    def _noted(self, name: str, key: str) -> float | None:
        marker = self._marker(name)
        value = json.loads(marker.read_text()).get(key) if marker.is_file() else None
        return None if value is None else float(value)

    def _marker(self, name: str) -> Path:
        return self.folder / "done" / f"{name}.json"

    def _is_done(self, step: Step) -> bool:
        marker = self._marker(step.name)
        if not marker.is_file() or not all(path.exists() for path in step.outputs):
            return False
        return bool(json.loads(marker.read_text())["identity"] == step.identity)

    def _prepare(self, step: Step, fresh: bool) -> None:
        """Remove what an earlier start with other arguments or inputs left; keep what one of the same kind began."""
        marker, begun = self._marker(step.name), self.folder / "done" / f"{step.name}.begun"
        same = fresh and begun.is_file() and begun.read_text() == step.identity
        if not same:
            for path in step.outputs:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                for kind in ("settings.json", "provenance.jsonl", "images"):  # of sample and generate
                    path.with_name(f"{path.stem}.{kind}").unlink(missing_ok=True)
        marker.unlink(missing_ok=True)
        begun.parent.mkdir(parents=True, exist_ok=True)
        begun.write_text(step.identity)

    def _mark(self, step: Step, seconds: float, computed: float) -> None:
        noted = {"identity": step.identity, "seconds": seconds, "cpu_seconds": computed}
        write_text(self._marker(step.name), json.dumps(noted))

    def _execute(self, step: Step, display: Display) -> None:
        if callable(step.command):
            step.command()
            return
        log = self.folder / "logs" / f"{step.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(
                step.command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                preexec_fn=end_with_parent if self.bound else None,
            )
            code = self._wait(process, step, display)
        if self._stopped_by is not None:
            raise UserError("stopped as asked. Start the same command again to go on.")
        if code != 0:
            raise UserError(f"step {step.name} failed with exit code {code}; its log is {log}:\n{_tail(log)}")

    def _wait(self, process: subprocess.Popen[bytes], step: Step, display: Display) -> int:
        """Wait for a command; hand SIGINT and SIGTERM on to it, and end it if it does not heed them."""
        deadline = float("inf")

        def hand_on(number: int, frame: FrameType | None) -> None:
            nonlocal deadline
            self._stopped_by, deadline = number, time.monotonic() + _PATIENCE_S
            process.send_signal(signal.SIGTERM)

        previous = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while True:
                try:
                    return process.wait(timeout=_POLL_S)
                except subprocess.TimeoutExpired:
                    if step.progress is not None:
                        display.advance(step.progress())
                    if time.monotonic() > deadline:
                        process.kill()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _cpu_seconds() -> float:
    """What this process and those that it has waited for have computed so far."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


def command_of(
    stage: str, values: Mapping[str, Any], processes: int | None = None, words: Sequence[str] = ()
) -> list[str]:
    """Command line of a stage of the loop, or of another script of its kind.

    Args:
        stage: name of its script.
        values: its settings, by dotted key.
        processes: that a stage with ranks is started in, on this machine and at a free port; the others, and all where it is
            None, are one process without any launcher.
        words: further overrides, as they are.
    """
    launcher = [sys.executable]
    if stage in RANKED and processes is not None:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, str(SCRIPTS / f"{stage}.py"), *overrides_of(values), *words]


def module_command(name: str, *arguments: str) -> list[str]:
    """Command line of a module of the miniature in one process."""
    return [sys.executable, "-m", f"nemo_mm_align.miniature.{name}", *arguments]
