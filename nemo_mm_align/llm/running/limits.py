"""Requests and tokens per minute: when a call may leave so that the service never sees more than that in any minute.

What a service counts is the arrival of a call, and calls take varying time to arrive. Calls therefore leave evenly
spaced, at slightly less than the limit: room for calls that arrive `TRANSIT_S` apart from when they should, and for
workers that wake up late. At 600 a minute that is 594, in any 60 seconds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

WINDOW_S = 60.0
TRANSIT_S = 0.4
"""Seconds by which one call may take longer than another from leaving here to being counted there."""
SLACK_S = 0.2
"""Seconds of lateness that following calls may make up for by leaving sooner; the limit holds all the same."""

POLL_S = 0.5


@dataclass
class Entry:
    """A call that left: when, and how much of the limit it takes."""

    time: float
    amount: int


class MinuteLimit:
    """One limit on amounts (calls, tokens) per minute. It knows neither clock nor threads.

    Two rules, both hold. Spacing: after an amount a the next call leaves no sooner than a * (minute + margins) / limit
    later, on average over `SLACK_S`. Window: no `WINDOW_S + TRANSIT_S` seconds ever hold more than the limit; this one
    alone counts what earlier runs did. A call that is larger than the limit itself leaves once the window is empty.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._spacing = (WINDOW_S + TRANSIT_S + SLACK_S) / limit
        self._entries: deque[Entry] = deque()
        self._sum = 0
        self._slot = float("-inf")

    def wait(self, now: float, amount: int = 1) -> float:
        """Return the seconds until a call of this amount may leave; 0.0 where it may leave now."""
        self._forget(now)
        leaves_at = max(now, self._slot - SLACK_S)
        excess = self._sum + amount - self.limit
        for entry in self._entries:
            if excess <= 0:
                break
            excess -= entry.amount
            leaves_at = max(leaves_at, entry.time + WINDOW_S + TRANSIT_S)
        return leaves_at - now

    def add(self, now: float, amount: int = 1) -> Entry:
        """Count a call that leaves now."""
        self._slot = max(self._slot, now) + amount * self._spacing
        return self._append(now, amount)

    def settle(self, entry: Entry, amount: int) -> None:
        """Correct the amount of a call, once it is known."""
        difference = amount - entry.amount
        if self._entries and entry.time >= self._entries[0].time:
            self._sum += difference
            self._slot += difference * self._spacing
        entry.amount = amount

    def remember(self, entries: Iterable[tuple[float, int]]) -> None:
        """Count calls (time, amount) of the past, before any other call."""
        for moment, amount in sorted(entries):
            self._append(moment, amount)
            self._slot = moment + self._spacing

    def _append(self, moment: float, amount: int) -> Entry:
        entry = Entry(moment, amount)
        self._entries.append(entry)
        self._sum += amount
        return entry

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0].time + WINDOW_S + TRANSIT_S <= now:
            self._sum -= self._entries.popleft().amount


@dataclass(frozen=True)
class Departure:
    """A call that was let through: what it takes of each limit."""

    request: Entry | None
    tokens: Entry | None


class Limiter:
    """Lets calls of all workers through one by one, in keeping with the limits and with pauses the service asked for.

    Args:
        requests_per_minute, tokens_per_minute: None for no limit.
        departures: where departures are written down, so that a run started again keeps to the limits too.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        departures: DepartureLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._requests = MinuteLimit(requests_per_minute) if requests_per_minute else None
        self._tokens = MinuteLimit(tokens_per_minute) if tokens_per_minute else None
        self._departures, self._clock = departures, clock
        self._opens_at = float("-inf")
        self._turn, self._lock = threading.Lock(), threading.Lock()

    def remember(self, calls: Iterable[tuple[float, int]]) -> None:
        """Count calls of earlier runs: (seconds ago, tokens)."""
        now = self._clock()
        past = [(now - max(0.0, age), tokens) for age, tokens in calls]
        if self._requests:
            self._requests.remember((moment, 1) for moment, _ in past)
        if self._tokens:
            self._tokens.remember(past)

    def hold(self, seconds: float) -> None:
        """Let nobody through for so long: a service that refuses one worker refuses all."""
        with self._lock:
            self._opens_at = max(self._opens_at, self._clock() + seconds)

    def wait(self, tokens: int = 0) -> float:
        """Return the seconds until a call may leave, as things stand."""
        with self._lock:
            now = self._clock()
            waits = [self._opens_at - now, 0.0]
            if self._requests:
                waits.append(self._requests.wait(now))
            if self._tokens:
                waits.append(self._tokens.wait(now, tokens))
            return max(waits)

    def acquire(self, stop: threading.Event, tokens: int = 0) -> Departure | None:
        """Wait until a call of about so many tokens may leave, and count it; None where `stop` was set before."""
        with self._turn:
            while not stop.is_set():
                remaining = self.wait(tokens)
                if remaining <= 0:
                    return self._depart(tokens)
                stop.wait(min(remaining, POLL_S))  # settled tokens may open the way sooner
        return None

    def settle(self, departure: Departure, tokens: int) -> None:
        """Correct the tokens of a call, once they are known."""
        if self._tokens and departure.tokens:
            with self._lock:
                self._tokens.settle(departure.tokens, tokens)

    def _depart(self, tokens: int) -> Departure:
        if self._departures:
            self._departures.add(tokens)
        with self._lock:
            now = self._clock()
            request = self._requests.add(now) if self._requests else None
            return Departure(request, self._tokens.add(now, tokens) if self._tokens else None)


class DepartureLog:
    """The departures of the last minute in a small file, written before each call: a kill loses none.

    Wall clock, since it must hold from one process to the next. The file stays for a run that starts within the minute.

    Args:
        path: the file; it is written anew.
        recent: departures (seconds since 1970, tokens) of earlier runs that are kept.
    """

    def __init__(self, path: Path, recent: Iterable[tuple[float, int]] = ()) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        self._file = temporary.open("wb", buffering=0)
        self._file.write(b"".join(_departure_line(*departure) for departure in recent))
        temporary.replace(path)

    def add(self, tokens: int) -> None:
        """Write down that a call of about so many tokens leaves now."""
        self._file.write(_departure_line(time.time(), tokens))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_departures(path: Path) -> list[tuple[float, int]]:
    """Return the departures of the last minute that a `DepartureLog` wrote; none where there is no file."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    fields = [line.split() for line in lines if line.endswith(b"\n")]
    horizon = time.time() - WINDOW_S - TRANSIT_S
    return [(float(moment), int(tokens)) for moment, tokens in fields if float(moment) >= horizon]


def _departure_line(moment: float, tokens: int) -> bytes:
    return b"%.3f %d\n" % (moment, tokens)
