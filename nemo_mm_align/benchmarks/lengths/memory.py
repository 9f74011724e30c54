"""Memory of one line, in a process that has imported and holds what that line needs and no more."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from nemo_mm_align.benchmarks.agreed import SEED
from nemo_mm_align.benchmarks.lengths.runnable import OURS, Runnable
from nemo_mm_align.benchmarks.lengths.work import Work
from nemo_mm_align.benchmarks.machine import peak_resident_bytes, resident_bytes
from nemo_mm_align.core.configuration import read
from nemo_mm_align.model.config import ParallelConfig

_STEPS = 2  # the first one makes the optimizer's state


def measure_memory(settings: dict[str, Any]) -> dict[str, Any]:
    """Take two steps of one line.

    Returns:
        ``peak_bytes``: most resident memory; ``libraries_bytes``: what was there before the models.
    """
    work, name = read(Work, settings["work"], "work"), settings["line"]
    own = name.removeprefix(f"{OURS}, ")
    with tempfile.TemporaryDirectory() as scratch:
        if own in work.lines:
            libraries, line = _ours(work, own, settings["size"])
        else:
            libraries, line = _peer(work, name, settings["size"], Path(scratch))
        for _ in range(_STEPS):
            line.step()
    return {"peak_bytes": peak_resident_bytes(), "libraries_bytes": libraries}


def _ours(work: Work, name: str, size: int) -> tuple[int, Runnable]:
    """Without a reference where its log-probs were computed before."""
    from nemo_mm_align.benchmarks.lengths.ours import Ours, our_lines
    from nemo_mm_align.parallel import runtime

    runtime.initialize(ParallelConfig(), SEED)
    libraries = resident_bytes()
    alone = work.model_copy(update={"lines": {name: work.lines[name]}})
    side = Ours(alone, with_reference=work.pairs and not work.lines[name].cached_reference)
    return libraries, next(our_lines(side, size))[1]


def _peer(work: Work, name: str, size: int, scratch: Path) -> tuple[int, Runnable]:
    from nemo_mm_align.benchmarks.lengths.peer_lines import peer_lines, peers_of
    from nemo_mm_align.benchmarks.lengths.trl import import_trl
    from nemo_mm_align.benchmarks.peers import import_llava

    builds = peers_of(work, scratch)
    side = max((other for other in builds if name.startswith(other)), key=len)
    import_llava()
    if side.startswith("TRL"):
        import_trl(work.pairs)
    libraries = resident_bytes()
    return libraries, next(line for found, line in peer_lines(side, builds[side](), size) if found == name)
