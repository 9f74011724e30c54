"""What a figure depends on besides the code: machine, versions, load, and the memory of this process."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nemo_mm_align.core.packages import installed_versions
from nemo_mm_align.core.units import GIB

_PACKAGES = ("torch", "megatron-core", "transformers", "trl", "accelerate")
_POLL_SECONDS = 0.005
_READINGS = 3


def describe_machine() -> dict[str, Any]:
    """Date, CPU, cores, memory, versions, and the load before anything is measured."""
    return {
        "date": date.today().isoformat(),
        "cpu": _first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "python": platform.python_version(),
        "versions": dict.fromkeys(_PACKAGES, "not installed") | installed_versions(_PACKAGES),
        "load": load_average(),
    }


def load_average() -> float:
    """Processes that wanted a core during the last minute, on average."""
    return round(os.getloadavg()[0], 2)


def peak_resident_bytes(process: str = "self") -> int:
    """Most memory that a process has held since it began, libraries included; 0 where it has ended."""
    return _status("VmHWM", process)


def resident_bytes(process: str = "self") -> int:
    """Memory that a process holds now, libraries included; 0 where it has ended."""
    return _status("VmRSS", process)


def anonymous_bytes() -> int:
    """Memory that no file stands behind, shared memory included, of this process and those that it started.

    Pages that a forked process shares with its parent count once: each process is given its proportional share. The others'
    shares grow when one ends; where processes began or ended while they were read, the least of a few readings counts.
    """
    readings = []
    for _ in range(_READINGS):
        processes = _living()
        readings.append(sum(map(_proportional_bytes, processes)))
        if processes == _living():
            return readings[-1]
    return min(readings)


def _living() -> list[str]:
    """This process and all below it that still have memory; one that is ending is without."""
    return [process for process in ["self", *descendants("self")] if not _is_without_memory(process)]


def _is_without_memory(process: str) -> bool:
    return (_read(Path(f"/proc/{process}/statm")) or "0").startswith("0")


def _proportional_bytes(process: str) -> int:
    path = Path(f"/proc/{process}/smaps_rollup")
    return sum(int(_first(path, rf"{field}:\s*(\d+) kB") or 0) * 1024 for field in ("Pss_Anon", "Pss_Shmem"))


def descendants(process: str) -> list[str]:
    """Numbers of all processes below one."""
    found: list[str] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in (_read(path) or "").split():
            found += [child, *descendants(child)]
    return found


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """Kill a process (SIGKILL) and all that it has started, and wait for it."""
    for number in [process.pid, *map(int, descendants(str(process.pid)))]:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


def _status(field: str, process: str = "self") -> int:
    found = _first(Path(f"/proc/{process}/status"), rf"{field}:\s*(\d+) kB")
    return int(found or 0) * 1024


def _first(path: Path, pattern: str) -> str | None:
    match = re.search(pattern, _read(path) or "")
    return match.group(1).strip() if match else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # the process has ended meanwhile
        return None


@dataclass
class Growth:
    """Anonymous memory before a block, its peak within, and what was left after it, in bytes."""

    before: int
    peak: int = 0
    after: int = 0

    @property
    def bytes(self) -> int:
        """Growth at the peak."""
        return self.peak - self.before


@contextmanager
def anonymous_growth() -> Iterator[Growth]:
    """Watch this process's anonymous memory from a thread while the block runs."""
    growth = Growth(anonymous_bytes())
    growth.peak = growth.before
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            growth.peak = max(growth.peak, anonymous_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield growth
    finally:
        done.set()
        thread.join()
        growth.after = anonymous_bytes()
        growth.peak = max(growth.peak, growth.after)
