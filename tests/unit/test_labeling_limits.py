"""Limits per minute: simulated minutes on a clock of our own, for one caller and for real threads."""

import random
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from nemo_mm_align.llm.running.limits import (
    TRANSIT_S,
    WINDOW_S,
    DepartureLog,
    Limiter,
    MinuteLimit,
    read_departures,
)


def most_in_a_minute(times: list[float], amounts: list[int] | None = None) -> int:
    """The largest sum in any closed interval of a minute, as a server counts it."""
    arrivals = sorted(zip(times, amounts or [1] * len(times), strict=True))
    first, total, most = 0, 0, 0
    for moment, amount in arrivals:
        total += amount
        while moment - arrivals[first][0] > WINDOW_S:
            total -= arrivals[first][1]
            first += 1
        most = max(most, total)
    return most


def simulate(limit: MinuteLimit, demands: list[float], rng: random.Random) -> list[float]:
    """Departures for callers that come at the times given and wake up late by up to 50 ms."""
    now, departures = 0.0, []
    for demand in demands:
        now = max(now, demand)
        while (wait := limit.wait(now)) > 0:
            now += wait + rng.choice((0.0, 0.001, 0.05))
        limit.add(now)
        departures.append(now)
    return departures


def bursts(rng: random.Random, count: int) -> list[float]:
    times, now = [], 0.0
    while len(times) < count:
        now += rng.choice((0.0, 0.0, 0.02, 0.5, 20.0, 70.0))
        times += [now] * rng.choice((1, 3, 40, 200))
    return times[:count]


@pytest.mark.parametrize("seed", range(12))
def test_no_minute_holds_more_than_the_limit_whatever_the_demand(seed: int) -> None:
    rng = random.Random(seed)
    per_minute = rng.choice((1, 7, 60, 600, 5000))
    departures = simulate(MinuteLimit(per_minute), bursts(rng, 4 * min(per_minute, 1000) + 10), rng)
    arrivals = [moment + rng.uniform(0, 0.99 * TRANSIT_S) for moment in departures]
    assert most_in_a_minute(arrivals) <= per_minute


@pytest.mark.parametrize("per_minute", [60, 600, 6000])
def test_steady_demand_gets_98_percent_of_the_limit(per_minute: int) -> None:
    departures = simulate(MinuteLimit(per_minute), [0.0] * (3 * per_minute), random.Random(0))
    rate = 60 * (len(departures) - 1) / (departures[-1] - departures[0])
    assert 0.98 * per_minute <= rate <= per_minute
    assert most_in_a_minute(departures) >= 0.98 * per_minute


def test_what_ran_before_counts() -> None:
    limit, rng = MinuteLimit(600), random.Random(1)
    past = [-30 + 0.01 * index for index in range(590)]
    limit.remember((moment, 1) for moment in past)
    departures = simulate(limit, [0.0] * 1300, rng)
    assert most_in_a_minute([*past, *departures]) <= 600
    assert departures[9] < 5 and 30 < departures[10] < 31, "ten more fit, the rest when the first ones are a minute old"


def test_tokens_are_counted_by_amount_and_settled() -> None:
    limit, rng, now = MinuteLimit(10_000), random.Random(2), 0.0
    entries, times = [], []
    for _ in range(1500):
        amount = rng.randint(1, 200)
        now += limit.wait(now, amount)
        entries.append(limit.add(now, amount))
        times.append(now)
        if len(entries) > 5:  # a reply comes a few calls later and was cheaper than reserved
            limit.settle(entries[-5], round(entries[-5].amount * rng.uniform(0.5, 1.0)))
    amounts = [entry.amount for entry in entries]
    assert most_in_a_minute(times, amounts) <= 10_000
    assert sum(amounts) / (times[-1] / 60) > 0.95 * 10_000


def test_a_call_larger_than_the_limit_goes_alone() -> None:
    limit = MinuteLimit(100)
    assert limit.wait(0.0, 250) == 0
    limit.add(0.0, 250)
    assert limit.wait(1.0, 1) >= 59
    assert limit.wait(200.0, 250) == 0


class SimulatedWait(threading.Event):
    """Where real threads wait for simulated seconds, from which they wake up to 10 ms late."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self._rng, self._lock = 0.0, random.Random(0), threading.Lock()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        until = self.now + timeout
        time.sleep(0.001)  # for other threads to come here as well, if they are let
        with self._lock:
            self.now = max(self.now, until + self._rng.uniform(0, 0.01))
        return self.is_set()


class SlowLog(DepartureLog):
    """Writing a departure down lets other threads run, as a slow disk does."""

    def add(self, tokens: int) -> None:
        super().add(tokens)
        time.sleep(0.001)


def test_threads_share_one_limiter_and_reach_its_rate(tmp_path: Path) -> None:
    """32 threads that always want to call, over two minutes."""
    stop = SimulatedWait()
    limiter = Limiter(600, departures=SlowLog(tmp_path / "departures"), clock=lambda: stop.now)
    departures = list[float]()

    def work() -> None:
        while stop.now < 120 and (departure := limiter.acquire(stop)):
            departures.append(departure.request.time)

    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    departures.sort()
    rate = 60 * (len(departures) - 1) / (departures[-1] - departures[0])
    assert 0.98 * 600 <= rate <= 600
    assert most_in_a_minute(departures) <= 600


def test_a_pause_holds_everybody_and_a_stop_ends_it() -> None:
    limiter, stop, start = Limiter(), threading.Event(), time.monotonic()
    limiter.hold(0.2)
    assert limiter.acquire(stop) is not None and time.monotonic() - start >= 0.2
    limiter.hold(600)
    threading.Timer(0.1, stop.set).start()
    assert limiter.acquire(stop) is None and time.monotonic() - start < 300


def test_departures_outlive_their_process(tmp_path: Path) -> None:
    path = tmp_path / "ledger.departures"
    begun = time.time()
    old = begun - 100
    log = DepartureLog(path, [(old, 5)])
    log.add(7)
    log.add(9)
    path.write_bytes(path.read_bytes() + b"17")  # torn
    found = read_departures(path)
    assert [tokens for _, tokens in found] == [7, 9]
    assert all(begun - 0.001 <= moment <= time.time() + 0.001 for moment, _ in found)
    limiter = Limiter(2, None)
    limiter.remember((time.time() - moment, tokens) for moment, tokens in found)
    assert WINDOW_S + TRANSIT_S - (time.time() - begun) - 0.01 < limiter.wait() < WINDOW_S + TRANSIT_S + 0.2
    assert all(first <= second for first, second in pairwise(found))
