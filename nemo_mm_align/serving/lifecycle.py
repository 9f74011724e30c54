"""How a server ends: asked to, it finishes what it has accepted; a fault ends it with an exit code that says so."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from nemo_mm_align.parallel.stopping import StopRequest
from nemo_mm_align.serving.gate import Gate

logger = logging.getLogger(__name__)

EXIT_CODE = 1
"""Of a server that ends by a fault. Asked to end it ends with 0, having done what it has accepted."""

_LOOK_SECONDS = 0.1
_LAST_WORDS_SECONDS = 2.0
"""For telling clients of a fault."""


class EndlessEngine(Protocol):
    """What is drained."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""

    def end(self) -> None:
        """Take nothing in any more."""


async def drain_when_asked(stop: StopRequest, gate: Gate, engine: EndlessEngine, seconds: float) -> None:
    """Wait until the server is asked to end; then close the gate, let what is inside be finished, and end the engine.

    Args:
        seconds: for finishing; what is not finished by then is given up.
    """
    while not stop.here():
        await asyncio.sleep(_LOOK_SECONDS)
    gate.close()
    logger.warning("asked to end: %d requests are in work and have %g s", gate.inside, seconds)
    if not await _empty(gate, engine, seconds):
        logger.warning("%d requests are given up: not finished within drain_seconds=%g", gate.inside, seconds)
        gate.give_up()
        await _empty(gate, engine, _LAST_WORDS_SECONDS)
    engine.end()


async def _empty(gate: Gate, engine: EndlessEngine, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while gate.inside or not engine.idle:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    return True


def end_with_lost_rank(name: str, gate: Gate, soon: Callable[[Callable[[], object]], None]) -> NoReturn:
    """End the process because another rank has ended, which the main thread may be waiting for in vain.

    Args:
        name: of that rank.
        gate: whose requests are told.
        soon: has something called on the event loop.
    """
    logger.critical("%s has died: the server ends, and with it what it was answering", name)
    soon(gate.close)
    soon(gate.give_up)
    deadline = time.monotonic() + _LAST_WORDS_SECONDS
    while gate.inside and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    end_at_once()


def end_at_once(code: int = EXIT_CODE) -> NoReturn:
    """End without tearing anything down that might wait for a dead rank."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
