"""Training jobs as a user submits them, and what they leave behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.parallel import checkpoint
from tests.distributed import REPOSITORY
from tests.slurm.cluster import Cluster

STEPS = 16
LAYOUTS = {"TP2": "tensor_model_parallel_size", "PP2": "pipeline_model_parallel_size"}
_OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"}


@dataclass
class Job:
    """A submitted training job.

    Args:
        cluster: where it runs.
        number: Slurm's.
        results: folder of scripts and logs; the training's own folder lies in it.
    """

    cluster: Cluster
    number: str
    results: Path

    @property
    def run(self) -> Path:
        """The training's folder: checkpoints, metrics, DONE."""
        return self.results / "sft"

    def losses(self) -> list[tuple[float, float, float]]:
        """Step, loss and gradient norm of every step recorded so far."""
        path = self.run / "metrics/training.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        values = [json.loads(line) for line in lines if line.endswith("}")]
        return [(value["step"], value["loss"], value["gradient_norm"]) for value in values]

    def log(self) -> str:
        """Everything that the job and its processes have printed."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.results.glob("log-*")))

    def starts(self) -> list[int]:
        """The step from which each start of the training went on, oldest first."""
        found = re.findall(r"steps of \d+, from step (\d+);", self.log())  # every rank says so
        return [int(step) for step in dict.fromkeys(found)]

    def newest_checkpoint(self) -> int:
        """Step of the newest complete checkpoint, 0 without one."""
        found = checkpoint.latest_checkpoint(self.run)
        return checkpoint.read_metadata(found).step if found else 0

    def wait_for_step(self, step: int, seconds: float = 90) -> None:
        """Wait until a step has been recorded."""

        def reached() -> bool:
            assert self.cluster.state(self.number) not in _OVER, self.log()[-6000:]
            return len(self.losses()) >= step

        self.cluster.wait_for(reached, seconds, lambda: f"step {step}: {self.log()[-6000:]}")

    def wait_for_checkpoint(self, after: int, seconds: float = 90) -> None:
        """Wait until there is a complete checkpoint of a step beyond `after`."""
        self.cluster.wait_for(
            lambda: self.newest_checkpoint() > after, seconds, lambda: f"a checkpoint: {self.log()[-6000:]}"
        )

    def wait_for_restart(self, seconds: float = 60) -> None:
        """Wait until the job runs for the second time."""
        again = ("1", "RUNNING")
        fields = lambda: (self.cluster.field(self.number, "Restarts"), self.cluster.state(self.number))  # noqa: E731
        self.cluster.wait_for(lambda: fields() == again, seconds, lambda: f"a restart: {fields()} {self.log()[-6000:]}")

    def finish(self, seconds: float = 120) -> str:
        """Wait for the end and return the final state."""
        self.cluster.wait_for(
            lambda: self.cluster.state(self.number) in _OVER, seconds, lambda: f"the end: {self.log()[-6000:]}"
        )
        return self.cluster.state(self.number)

    def processes(self, script: bytes = b"scripts/train.py") -> list[int]:
        """Ids of a script's processes, by rank."""
        found: dict[int, int] = {}
        for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):  # forked writers come later
            try:
                command = (path / "cmdline").read_bytes().split(b"\0")
                variables = dict(item.partition("=")[::2] for item in (path / "environ").read_text().split("\0"))
            except (OSError, UnicodeDecodeError):
                continue
            own = variables.get("SLURM_JOB_ID") == self.number and variables.get("SLURM_STEP_ID", "batch").isdigit()
            if own and command[0].endswith(b"python") and any(word.endswith(script) for word in command[:3]):
                rank = int(variables.get("RANK", variables["SLURM_PROCID"]))
                found.setdefault(rank, int(path.name))
        return [found[rank] for rank in sorted(found)]


def launch(cluster: Cluster, *arguments: str) -> list[str]:
    """Run ``scripts/launch.py`` and return the numbers of the jobs that it submitted."""
    command = [sys.executable, str(REPOSITORY / "scripts/launch.py"), "cluster=bcm", *arguments]
    command += ["cluster.partition=batch"] if not any("cluster.partition" in item for item in arguments) else []
    command += ["cluster.gpus_per_node=null", "cluster.exclusive=false", "cluster.mem=null", f"python={sys.executable}"]
    done = subprocess.run(command, env=cluster.environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return re.findall(r"\bjob (\d+)", done.stdout + done.stderr)
