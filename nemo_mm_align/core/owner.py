"""Which process owns a run's folder or an output file, and whether that process still runs, as far as can be known here.

A process is told apart from a later one of the same number by the moment it started, and a machine from a rebooted one by
its boot. What another machine runs cannot be seen from here, except that a job that its scheduler starts again, or
torchrun's next attempt, has ended before.
"""

from __future__ import annotations

import os
import socket
import sys
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from nemo_mm_align.core.run_files import JOB_VARIABLE


class Standing(Enum):
    """What is known of another process."""

    RUNS = "runs"
    ENDED = "ended"
    UNKNOWN = "unknown"


class Attempt(BaseModel):
    """Which start of what this is: of two starts of one thing the earlier has ended.

    Args:
        name: of the thing; "" where there is none.
        number: counts its starts.
    """

    model_config = ConfigDict(frozen=True)

    name: str = ""
    number: int = 0

    def follows(self, other: Attempt) -> bool:
        """Whether the other one has ended because this one has begun."""
        return bool(self.name) and self.name == other.name and self.number > other.number


class Owner(BaseModel):
    """A process.

    Args:
        host: the machine's name.
        pid: number of the process there.
        started: when it started, in clock ticks since the machine's boot; "" where that cannot be read.
        boot: tells a boot of a machine from all others; "" where that cannot be read.
        pid_namespace: what `pid` is a number in: a container counts processes of its own.
        launcher, launcher_started: torchrun's process, without which this one ends; 0 and "" without torchrun.
        job: name of a launched job, of which the scheduler runs one at a time.
        slurm, torchrun: attempts of the Slurm job and of the torchrun in which it runs.
        since: UTC.
        program: what was started.
        locked: whether it holds the kernel's lock on the file that this stands in.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    started: str
    boot: str
    pid_namespace: str
    launcher: int = 0
    launcher_started: str = ""
    job: str = ""
    slurm: Attempt = Attempt()
    torchrun: Attempt = Attempt()
    since: str = ""
    program: str = ""
    locked: bool = False

    @classmethod
    def here(cls, locked: bool = False) -> Owner:
        """Describe this process."""
        launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else 0
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=start_of(os.getpid()) or "",
            boot=_read("/proc/sys/kernel/random/boot_id"),
            pid_namespace=_link("/proc/self/ns/pid"),
            launcher=launcher,
            launcher_started=(start_of(launcher) or "") if launcher else "",
            job=os.environ.get(JOB_VARIABLE, ""),
            slurm=_attempt("SLURM_JOB_ID", "SLURM_RESTART_COUNT"),
            torchrun=_attempt("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            program=Path(sys.argv[0]).name,
            locked=locked,
        )

    def to_json(self) -> str:
        """Return what stands in a lock file."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Owner | None:
        """Read what `to_json` wrote; None where it is something else."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    def shares_machine(self, other: Owner) -> bool:
        """Whether both run on one machine, since one boot of it."""
        return bool(self.boot) and self.boot == other.boot

    def standing(self, other: Owner) -> Standing:
        """Return what this process knows of another one."""
        if self.shares_machine(other) and self.pid_namespace == other.pid_namespace:
            return Standing.RUNS if _runs(other.pid, other.started) else Standing.ENDED
        same_job = bool(self.job) and self.job == other.job
        if same_job or self.slurm.follows(other.slurm) or self.torchrun.follows(other.torchrun):
            return Standing.ENDED
        return Standing.UNKNOWN

    def is_orphan(self, other: Owner) -> bool:
        """Whether another process runs on this machine that has lost its launcher, and is about to end."""
        runs = self.standing(other) is Standing.RUNS
        return runs and bool(other.launcher) and not _runs(other.launcher, other.launcher_started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.program}, since {self.since})"


def start_of(pid: int) -> str | None:
    """Return when a process started, in ticks since boot; None where it has ended, "" where that cannot be read."""
    if not Path("/proc/self/stat").is_file():
        return "" if _answers(pid) else None
    try:
        # After the program's name, which may hold blanks and brackets itself; fields are counted from 3 there (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started  # a zombie has ended; only its parent has not asked yet


def _runs(pid: int, started: str) -> bool:
    return start_of(pid) in ({started} if started else {""})


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _attempt(name: str, number: str) -> Attempt:
    given = os.environ.get(name, "")
    count = os.environ.get(number, "0")
    # "none": torchrun's id where no rendezvous was named, the same for all runs
    return Attempt(name=given, number=int(count) if count.isdigit() else 0) if given != "none" else Attempt()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
