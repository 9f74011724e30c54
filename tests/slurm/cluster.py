"""A Slurm of two nodes on this machine, with everything it needs in one folder; nothing of the system's is touched.

Both nodes are this host under two names and ports; a job fills its nodes, so that a second one has to wait. Credentials
expire after 5 s, because a requeued job may start again only when the old ones have: by Slurm's default, two minutes.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "gcc")
NODES = ("n1", "n2")

_SETTINGS = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=1
MpiDefault=none
KillWait=15
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={port1} CPUs=1
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={port2} CPUs=1
PartitionName=batch Nodes=n[1-2] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF
"""


def missing_programs() -> list[str]:
    """Return what is not installed, of all that a cluster and its plugin need."""
    found = [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]
    return found if Path("/usr/include/slurm/spank.h").is_file() else [*found, "slurm/spank.h (libslurm-dev)"]


def _search_path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


class Cluster:
    """Starts with `start`, ends with `stop`; `environment` makes Slurm's commands speak to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _search_path()}

    def start(self) -> None:
        """Start munge, the controller and both nodes, and wait until the nodes are idle."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o711)
        self._configure()
        munge = ["munged", "--force", f"--socket={self.folder}/munge.sock", f"--key-file={self.folder}/munge.key"]
        munge += [f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log"]
        for command in (
            [*munge, f"--seed-file={self.folder}/munge.seed"],
            ["slurmctld"],
            *(["slurmd", "-N", n] for n in NODES),
        ):
            self.run(*command)
        self.wait_for(lambda: self.run("sinfo", "-h", "-N", "-p", "batch", "-t", "idle").count("\n") == 2, 20)

    def _configure(self) -> None:
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        port, port1, port2 = _free_ports(3)
        text = _SETTINGS.format(folder=self.folder, user=getpass.getuser(), port=port, port1=port1, port2=port2)
        (self.folder / "slurm.conf").write_text(text)
        plugin = self.folder / "container_options.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-o", plugin, Path(__file__).with_name("container_options.c")], check=True
        )
        (self.folder / "plugstack.conf").write_text(f"required {plugin}\n")

    def stop(self) -> None:
        """End all jobs and daemons."""
        self.run("scancel", "--full", "-u", getpass.getuser(), check=False)
        self.wait_for(lambda: not self.run("squeue", "-h", check=False), 60)
        for pattern in ("slurmctld.pid", "slurmd-*.pid", "munged.pid"):
            for path in self.folder.glob(pattern):
                _end(int(path.read_text()))

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's programs and return what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def wait_for(self, condition, seconds: float, what: object = "") -> None:
        """Wait until `condition()` holds; fail with `what` and the controller's log after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                log = (self.folder / "slurmctld.log").read_text()[-3000:]
                raise AssertionError(f"not within {seconds:g} s {what() if callable(what) else what}\n{log}")
            time.sleep(0.1)

    def state(self, job: str) -> str:
        """State of a job: PENDING, RUNNING, COMPLETED, FAILED, ..."""
        return self.field(job, "JobState")

    def field(self, job: str, name: str) -> str:
        """A field of ``scontrol show job``."""
        words = self.run("scontrol", "-o", "show", "job", job).split()
        return next(word.split("=", 1)[1] for word in words if word.startswith(f"{name}="))


def _end(pid: int) -> None:
    """SIGTERM, then wait; a lazy init process leaves zombies, which count as gone."""
    try:
        os.kill(pid, signal.SIGTERM)
        for _ in range(200):
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        return
