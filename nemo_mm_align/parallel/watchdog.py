"""A rank that hangs is found, named and ended; without that, its peers would wait for the collective's timeout.

Every rank's watchdog thread publishes where its rank is (step, phase, innermost Python frame) in the run's key-value store.
When no step has ended for too long, each rank writes the stacks of all its threads to a file, the ranks that lag behind are
named from what all of them published, and the processes end with `EXIT_CODE`.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.distributed import Store, distributed_c10d

from nemo_mm_align.core.processes import node_name

logger = logging.getLogger(__name__)

EXIT_CODE = 86
"""Of a process that was ended because the run hung."""

_LONGEST_INTERVAL_S = 5.0


@dataclass(frozen=True)
class Place:
    """Where a rank is.

    Args:
        rank, node: which process.
        step: optimizer steps that it has ended.
        in_step: whether it has begun the next one, rather than fetching data for it.
        idle_s: seconds since it last moved.
        frame: innermost Python frame of its main thread.
        beats: counts up while the process lives.
    """

    rank: int
    node: str
    step: int
    in_step: bool
    idle_s: float
    frame: str
    beats: int

    def __str__(self) -> str:
        doing = f"in step {self.step + 1}" if self.in_step else f"before step {self.step + 1} (data, callbacks)"
        return f"rank {self.rank} on {self.node}: {doing} for {self.idle_s:.0f} s, at {self.frame}"


def silent_ranks(first: Sequence[Place | None], second: Sequence[Place | None]) -> list[int]:
    """Return the ranks whose process no longer publishes.

    Args:
        first, second: places by rank, read more than one beat apart; None where a rank never published one.
    """
    pairs = enumerate(zip(first, second, strict=True))
    return [rank for rank, (old, new) in pairs if new is None or (old is not None and old.beats == new.beats)]


def late_ranks(places: Sequence[Place | None]) -> list[int]:
    """Return the ranks that have come less far than the others; none where all are at the same place."""
    reached = {rank: (place.step, place.in_step) for rank, place in enumerate(places) if place is not None}
    return [rank for rank, where in reached.items() if where < max(reached.values())]


class Watchdog:
    """Watches one rank from a thread of its own.

    Args:
        timeout_s: how long a rank may stay in one place.
        folder: where the stacks are written, as ``hang_rank<n>.txt``.
        rank, world_size: of the run.
        store: shared by the ranks; None: each rank reports itself only.
    """

    def __init__(self, timeout_s: float, folder: Path, rank: int, world_size: int, store: Store | None) -> None:
        self.timeout_s, self.folder, self.rank, self.world_size, self.store = timeout_s, folder, rank, world_size, store
        self.interval_s = min(_LONGEST_INTERVAL_S, timeout_s / 4)
        self._place = Place(rank, node_name(), 0, False, 0.0, "", 0)
        self._moved = time.monotonic()
        self._ended = threading.Event()
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._watch, name="hang watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._moved = time.monotonic()
        self._thread.start()

    def moved(self, step: int, in_step: bool) -> None:
        """Say that this rank has ended `step` steps and whether it is in the next one."""
        self._place = replace(self._place, step=step, in_step=in_step)
        self._moved = time.monotonic()
        # For a hang that holds Python's lock, where no thread of ours can run: the C library's own timer.
        faulthandler.dump_traceback_later(3 * self.timeout_s, exit=True)

    def stop(self) -> None:
        """Watch no longer."""
        faulthandler.cancel_dump_traceback_later()
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self.interval_s):
            self._publish()
            if time.monotonic() - self._moved > self.timeout_s:
                self._report()
                os._exit(EXIT_CODE)

    def _publish(self) -> None:
        frame = sys._current_frames().get(self._main or 0)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}" if frame else "?"
        idle = time.monotonic() - self._moved
        self._place = replace(self._place, frame=where, idle_s=round(idle, 1), beats=self._place.beats + 1)
        if self.store is not None:
            try:
                self.store.set(f"place/{self.rank}", json.dumps(asdict(self._place)))
            except RuntimeError:  # its server went down with another rank; what happened to this one is known here
                self.store = None

    def _report(self) -> None:
        path = self.folder / f"hang_rank{self.rank}.txt"
        self.folder.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            file.write(f"{self._place}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        logger.critical(
            "no step ended for %.0f s. %s; stacks of all its threads: %s", self.timeout_s, self._place, path
        )
        compare = threading.Thread(target=self._compare, daemon=True)
        compare.start()
        compare.join(8 * self.interval_s)
        if compare.is_alive():
            logger.critical("the run's store does not answer: rank 0, which holds it, is dead or stopped")

    def _compare(self) -> None:
        first = self._places()
        self._keep_beating()
        second = self._places()
        silent = silent_ranks(first, second)
        if self.rank == min(set(range(self.world_size)) - set(silent)):
            self._name(silent, second)
        self._keep_beating()  # the others still read from us

    def _keep_beating(self) -> None:
        for _ in range(2):
            time.sleep(self.interval_s)
            self._publish()

    def _places(self) -> list[Place | None]:
        return [self._read(rank) for rank in range(self.world_size)]

    def _read(self, rank: int) -> Place | None:
        if rank == self.rank:
            return self._place
        try:
            key = f"place/{rank}"
            if self.store is None or not self.store.check([key]):
                return None
            return Place(**json.loads(self.store.get(key)))
        except RuntimeError:
            return None

    def _name(self, silent: Sequence[int], places: Sequence[Place | None]) -> None:
        table = "\n".join(f"  {place or f'rank {rank}: never heard of'}" for rank, place in enumerate(places))
        dead = "silent: its process is dead or stopped, or its node is gone"
        reason = dead if silent else "behind the others"
        ranks = silent or late_ranks(places)
        if ranks:
            names = ", ".join(f"rank {rank}" for rank in ranks)
            logger.critical("the run hangs at %s (%s):\n%s", names, reason, table)
        else:
            logger.critical("the run hangs with all ranks in the same step; compare where they are:\n%s", table)


def connect() -> Store | None:
    """Return a connection of its own to the run's store; all ranks call it.

    The one that torch uses answers one request at a time and may wait for a peer within it.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return None
    store = distributed_c10d._get_default_store()
    return torch.distributed.PrefixStore("nemo_mm_align/watchdog", store.clone())  # type: ignore[attr-defined]
