"""Functions that are called at their time."""

from __future__ import annotations

import os
import threading
import time

import pytest

from nemo_mm_align.llm.clients import alarms
from nemo_mm_align.llm.clients.alarms import Alarms
from tests.waiting import PATIENCE_S


def test_each_is_called_at_its_time_and_not_before() -> None:
    called: list[tuple[str, float]] = []
    done, start, clock = threading.Event(), time.monotonic(), Alarms()
    for name, seconds in (("last", 0.3), ("first", 0.05), ("second", 0.15)):
        clock.set(
            seconds, lambda name=name: (called.append((name, time.monotonic() - start)), name == "last" and done.set())
        )
    assert done.wait(PATIENCE_S)
    assert [name for name, _ in called] == ["first", "second", "last"]
    assert all(moment >= seconds for (_, moment), seconds in zip(called, (0.05, 0.15, 0.3), strict=True))


def test_one_that_is_called_off_is_never_called_and_leaves_nothing_behind() -> None:
    clock, called, done = Alarms(), [], threading.Event()
    numbers = [clock.set(3600.0, lambda: called.append("late")) for _ in range(1000)]
    soon = clock.set(0.05, lambda: called.append("soon"))
    clock.cancel(soon)
    for number in numbers:
        clock.cancel(number)
    assert not clock._times and not clock._functions
    clock.set(0.1, done.set)
    assert done.wait(PATIENCE_S)
    assert not called
    clock.cancel(soon)  # again, and after its time: nothing


def test_all_share_one_thread() -> None:
    clock, names = Alarms(), set()
    done = threading.Semaphore(0)
    for _ in range(20):
        clock.set(0.01, lambda: (names.add(threading.current_thread().name), done.release()))
    assert all(done.acquire(timeout=PATIENCE_S) for _ in range(20))
    assert names == {"alarms"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_alarms_that_ring() -> None:
    first = threading.Event()
    alarms.ALARMS.set(0.01, first.set)
    assert first.wait(PATIENCE_S)
    child = os.fork()
    if child == 0:
        rung = threading.Event()
        alarms.ALARMS.set(0.01, rung.set)
        os._exit(0 if rung.wait(PATIENCE_S) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
