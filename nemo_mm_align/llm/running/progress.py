"""Live progress of a run of calls: a bar on a terminal, a line in the log now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import track as rich_track

from nemo_mm_align.llm.running.admission import Admission
from nemo_mm_align.llm.running.budget import describe_tokens

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 30.0

RATE_WINDOW_S = 60.0
"""Seconds over which the present rate is taken: with a limit per minute a shorter time would show its bursts."""

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
        reused: prompts whose answer was in the ledger already.
        answered: prompts asked about with success by this run.
        given_up: prompts left without an answer after their last attempt in this run.
        set_aside: prompts not asked, since earlier attempts failed by their own fault.
        calls: attempts made; `failures` counts those that failed, by kind, and `last_failure` says what the last was.
        usage: token counts summed.
    """

    total: int = 0
    reused: int = 0
    answered: int = 0
    given_up: int = 0
    set_aside: int = 0
    calls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    last_failure: str = ""
    usage: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Prompts that need no further work in this run."""
        return self.reused + self.answered + self.given_up + self.set_aside

    @property
    def remaining(self) -> int:
        """Prompts that this run still has to do."""
        return max(0, self.total - self.done)

    def describe(self) -> str:
        """Return the state in one line: calls, and failures by kind with their share of the calls."""
        if not self.failures:
            return f"{self.calls:,} calls, none failed"
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.failures.items()))
        return f"{self.calls:,} calls, {self.failures.total() / self.calls:.1%} failed ({kinds})"


class Rate:
    """Prompts per second, lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._points: deque[tuple[float, int]] = deque([(clock(), 0)])

    def update(self, answered: int) -> None:
        """Note how many prompts this run has got an answer to."""
        now = self._clock()
        if now - self._points[-1][0] >= RATE_WINDOW_S / 60 or len(self._points) == 1:
            self._points.append((now, answered))
        else:
            self._points[-1] = (self._points[-1][0], answered)
        while len(self._points) > 2 and self._points[1][0] <= now - RATE_WINDOW_S:
            self._points.popleft()

    def per_second(self) -> float:
        """Return the rate over the last minute, or since the start."""
        seconds = self._clock() - self._points[0][0]
        return (self._points[-1][1] - self._points[0][1]) / seconds if seconds > 0 else 0.0


def eta_seconds(tally: Tally, rate: float, requests_per_minute: int | None) -> float | None:
    """Return the seconds until all prompts are done, at the present rate and no faster than the limit allows.

    None as long as nothing was answered: a guess would be made up.
    """
    if tally.remaining == 0:
        return 0.0
    if rate <= 0 or not tally.answered:
        return None
    if requests_per_minute:  # calls that failed take their share of the limit
        rate = min(rate, requests_per_minute / 60 * tally.answered / tally.calls)
    return tally.remaining / rate


def describe_seconds(seconds: float | None) -> str:
    """Return ``1:02:03``, or ``?`` where it is not known."""
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))


class ProgressDisplay:
    """Shows how a run goes: rate, cost, failures, time left. `update` is called a few times a second.

    Args:
        tally: counts of the run.
        admission: knows what was spent and which limits hold.
        doing: what is done, in a word.
    """

    def __init__(self, tally: Tally, admission: Admission, doing: str) -> None:
        self.tally, self.admission = tally, admission
        self._rate = Rate()
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn(doing), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[state]}"), console=Console(stderr=True))
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
        """Show the present state: on a terminal at once, else as a line of the log every `LOG_INTERVAL_S`."""
        self._rate.update(self.tally.answered)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.tally.done, state=self.describe())
        elif time.monotonic() - self._last_line >= LOG_INTERVAL_S:
            self._last_line = time.monotonic()
            log.info("%d of %d prompts done; %s", self.tally.done, self.tally.total, self.describe())

    def describe(self) -> str:
        """Return rate, time left, failures and cost in one line."""
        rate = self._rate.per_second()
        eta = eta_seconds(self.tally, rate, self.admission.limiter.requests_per_minute)
        parts = [f"{rate:,.1f} prompts/s", f"ETA {describe_seconds(eta)}", self.tally.describe()]
        budget = self.admission.budget
        if not self.admission.estimator.is_free:
            parts.append(describe_tokens(budget.spent_now, budget.price))
        return ", ".join(parts)
