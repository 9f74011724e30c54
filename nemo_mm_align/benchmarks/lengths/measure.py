"""Losses of all lines held against each other, then their steps timed in turn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.agreed import SEED
from nemo_mm_align.benchmarks.lengths.ours import Ours, our_lines
from nemo_mm_align.benchmarks.lengths.peer_lines import Peer, peer_lines, peers_of
from nemo_mm_align.benchmarks.lengths.runnable import OURS, Runnable
from nemo_mm_align.benchmarks.lengths.work import Work
from nemo_mm_align.benchmarks.machine import load_average
from nemo_mm_align.benchmarks.timing import Timing, alternate, speedup
from nemo_mm_align.benchmarks.training import TOLERANCE, check_equal
from nemo_mm_align.core.configuration import read
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime

TOLERANCES = {"fp32": TOLERANCE, "bf16": 0.03}
"""Relative distance of losses; in bf16 the sums of log-probs of the two sides round differently."""
_Sizes = dict[str, dict[int, float]]


@contextmanager
def _peers(work: Work) -> Iterator[dict[str, Peer]]:
    with tempfile.TemporaryDirectory() as scratch:
        yield {name: build() for name, build in peers_of(work, Path(scratch)).items()}


def measure_time(settings: dict[str, Any]) -> dict[str, Any]:
    """Time steps of every line in turn, once the losses of all are equal, and those of a few steps of every side."""
    work = read(Work, settings["work"], "work")
    runtime.initialize(ParallelConfig(), SEED)
    with _peers(work) as peers:
        side = Ours(work, with_reference=work.pairs)
        losses = {name: line.loss() for name, line in _lines(peers, side, {}).items()}
        check_equal(losses, TOLERANCES[work.precision])
        tried = _try_sizes(work, peers, side)
        sizes = {name: min(seconds, key=seconds.__getitem__) for name, seconds in tried.items()}
        lines = _lines(peers, side, sizes)
        timings = alternate({name: line.step for name, line in lines.items()}, work.rounds, warmup=0)
    return _result(work, lines, timings, losses) | {"sizes": sizes, "tried": tried}


def _lines(peers: Mapping[str, Peer], side: Ours, sizes: Mapping[str, int]) -> dict[str, Runnable]:
    """All lines, with micro batches of these sizes by side, or of the first to be tried."""
    first = side.work.micro_batches[0]
    found: dict[str, Runnable] = {}
    for name, peer in peers.items():
        found |= peer_lines(name, peer, sizes.get(name, first))
    return found | dict(our_lines(side, sizes.get(OURS, first)))


def _try_sizes(work: Work, peers: Mapping[str, Peer], side: Ours) -> _Sizes:
    """Seconds of a step with micro batches of each size, by side; each side takes as many steps, whose losses have to be equal.

    The first size is taken once more before, so that no side allocates for the first time on the clock.
    """
    found: _Sizes = {name: {} for name in (*peers, OURS)}
    for size in (work.micro_batches[0], *work.micro_batches):
        losses: dict[str, float] = {}
        for name, peer in peers.items():
            _, line = next(peer_lines(name, peer, size))
            losses[name], found[name][size] = _timed(line)
        _, line = next(our_lines(side, size))
        losses[OURS], found[OURS][size] = _timed(line)
        check_equal(losses, TOLERANCES[work.precision])
    return found


def _timed(line: Runnable) -> tuple[float, float]:
    start = time.perf_counter()
    loss = line.step()
    return loss, time.perf_counter() - start


def _result(
    work: Work, lines: Mapping[str, Runnable], timings: Mapping[str, Timing], losses: Mapping[str, float]
) -> dict[str, Any]:
    rivals = [name for name, line in lines.items() if line.rival] or list(lines)[:1]
    best = min(rivals, key=lambda name: timings[name].median)
    table = [
        {
            "name": name,
            "seconds": timing.median,
            "prompts_per_second": work.prompts / timing.median,
            "tokens_per_second": work.tokens / timing.median,
            "real": lines[name].real,
            "positions": lines[name].positions,
            "has_memory": lines[name].rival or name.startswith(OURS),
            "speedup": speedup(timings[best], timing),
            "all_seconds": timing.seconds,
        }
        for name, timing in timings.items()
    ]
    return {
        "peer": best,
        "lines": table,
        "losses": dict(losses),
        "tokens": work.tokens,
        "threads": torch.get_num_threads(),
        "load_after": load_average(),
    }
