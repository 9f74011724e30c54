"""Live progress of labelling: a bar on a terminal, a line in the log now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import track as rich_track

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 30.0

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yield the items, with a bar on a terminal that goes away at the end."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from rich_track(items, what, total, console=console, transient=True)
    else:
        yield from items


@dataclass
class Tally:
    """Counts of a run so far.

    Args:
        total: prompts of the run.
        reused: prompts whose judgement was in the ledger already.
        labelled: prompts judged by this run.
        given_up: prompts left without a judgement after their last attempt in this run.
        set_aside: prompts not asked, since earlier attempts failed by their own fault.
        calls: attempts made; `failures` counts those that failed, by kind.
        usage: token counts summed.
    """

    total: int = 0
    reused: int = 0
    labelled: int = 0
    given_up: int = 0
    set_aside: int = 0
    calls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    usage: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Prompts that need no further work in this run."""
        return self.reused + self.labelled + self.given_up + self.set_aside

    def describe(self) -> str:
        """Return the state in one line: rate, failures by kind, tokens."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        failed = ", ".join(f"{kind} {count}" for kind, count in sorted(self.failures.items())) or "none"
        tokens = ", ".join(f"{name} {count:,}" for name, count in sorted(self.usage.items()))
        text = f"{self.labelled / seconds:,.1f} prompts/s, {self.calls:,} calls, failed calls: {failed}"
        return f"{text}, {tokens}" if tokens else text


class ProgressDisplay:
    """Shows a `Tally`; `update` is called a few times a second from the main thread."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("labelling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            rest = (TimeRemainingColumn(), TextColumn("{task.fields[state]}"))
            self._bar = Progress(*columns, *rest, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=tally.total, completed=tally.done, state="")

    def __enter__(self) -> ProgressDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self.update()
            self._bar.stop()

    def update(self) -> None:
        """Show the present state."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.tally.done, state=self.tally.describe())
        elif time.monotonic() - self._last_line >= LOG_INTERVAL_S:
            self._last_line = time.monotonic()
            log.info("%d of %d prompts done; %s", self.tally.done, self.tally.total, self.tally.describe())
