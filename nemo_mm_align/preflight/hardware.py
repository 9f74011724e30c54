"""GPUs of this node, as nvidia-smi reports them, against what the job asks for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_mm_align.core.units import MIB, gib
from nemo_mm_align.model.config import FP8_CAPABILITY, is_fp8
from nemo_mm_align.preflight.finding import Finding, amber, green, red
from nemo_mm_align.preflight.programs import run_program

_FIELDS = (
    "index,name,memory.total,memory.used,driver_version,compute_cap,mig.mode.current,ecc.mode.current,"
    "ecc.errors.uncorrected.volatile.total"
)
_FP8_CAPABILITY = FP8_CAPABILITY[0] + FP8_CAPABILITY[1] / 10  # as nvidia-smi writes it
_BUSY_MIB = 2048
"""Memory in use that a driver and its contexts do not explain."""


@dataclass(frozen=True)
class Gpu:
    """One line of nvidia-smi; memory in MiB."""

    index: int
    name: str
    memory_mib: int
    used_mib: int
    driver: str
    capability: float
    mig: str
    ecc: str
    ecc_errors: int

    @property
    def fp8(self) -> bool:
        """Whether it multiplies in FP8 (Ada, Hopper and later)."""
        return self.capability >= _FP8_CAPABILITY


def query_gpus() -> list[Gpu] | None:
    """The node's GPUs; ``None`` where nvidia-smi is missing or fails."""
    done = run_program(["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"], timeout_s=30)
    return parse_smi(done.stdout) if done else None


def parse_smi(text: str) -> list[Gpu]:
    """Read nvidia-smi's CSV; a field that a GPU does not have (``[N/A]``) counts as 0 or as it is written."""
    gpus = []
    for line in filter(None, map(str.strip, text.splitlines())):
        index, name, total, used, driver, capability, mig, ecc, errors = (part.strip() for part in line.split(","))
        numbers = [float(x) if x.replace(".", "", 1).isdigit() else 0.0 for x in (total, used, capability, errors)]
        gpus.append(
            Gpu(int(index), name, int(numbers[0]), int(numbers[1]), driver, numbers[2], mig, ecc, int(numbers[3]))
        )
    return gpus


def check_gpus(
    gpus: Sequence[Gpu] | None,
    local_world_size: int,
    precision: str,
    wanted: bool,
    environment: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Number, kind and state of the GPUs.

    Args:
        gpus: as `query_gpus` gives them.
        local_world_size: ranks on this node, one GPU each.
        precision: of the training.
        wanted: the job computes with a model in a number format that is meant for GPUs.
        environment: default this process's.
    """
    values = os.environ if environment is None else environment
    if not gpus:
        return [_no_gpu(precision, wanted, _promised(values))]
    findings = [_kind(gpus), *_state(gpus)]
    seen = visible(values, len(gpus))
    if local_world_size > seen == 1 and _tasks_have_their_own(values):
        found = (
            f"1 visible to each of the {local_world_size} tasks on this node; two tasks on one GPU fail the all-reduce"
        )
        findings.append(green("GPUs per rank", found))
    elif local_world_size > seen:
        found = f"{local_world_size} ranks on this node, {seen} GPUs visible"
        findings.append(red("GPUs per rank", found, "start one rank per GPU (trainer.devices, cluster.gpus_per_node)"))
    if is_fp8(precision) and not all(gpu.fp8 for gpu in gpus):
        names = ", ".join(sorted({gpu.name for gpu in gpus if not gpu.fp8}))
        found = f"{names}: no FP8 units, precision={precision}"
        findings.append(red("FP8", found, "set precision=bf16, or ask for Ada, Hopper or Blackwell GPUs"))
    return findings


def _tasks_have_their_own(values: Mapping[str, str]) -> bool:
    """Whether ranks are Slurm's tasks, which may each be bound to a GPU; torchrun's ranks all see what torchrun sees."""
    return "SLURM_STEP_ID" in values and "RANK" not in values


def _promised(values: Mapping[str, str]) -> str:
    """Which variable says that there should be GPUs."""
    names = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE")
    return next((name for name in names if values.get(name) not in (None, "", "0")), "")


def visible(values: Mapping[str, str], there: int) -> int:
    """GPUs that CUDA_VISIBLE_DEVICES leaves of those that are there."""
    listed = values.get("CUDA_VISIBLE_DEVICES")
    return (
        there
        if listed is None
        else min(there, len([part for part in listed.split(",") if part.strip() not in ("", "-1")]))
    )


def _no_gpu(precision: str, wanted: bool, promised: str) -> Finding:
    if promised:
        remedy = (
            "start the container with its GPUs: docker --gpus all, singularity --nv, nvidia-container-cli for enroot"
        )
        return red("GPUs", f"{promised} promises GPUs, but nvidia-smi finds none", remedy)
    if is_fp8(precision):
        return red("GPUs", f"none, and precision={precision} needs them", "run on a GPU node, or set precision=fp32")
    if wanted:
        remedy = "run on a GPU node; for a test on a CPU set precision=fp32"
        return amber("GPUs", f"none: training in {precision} would run on the CPU, very slowly", remedy)
    return green("GPUs", "none: ranks compute on the CPU and talk over gloo")


def _kind(gpus: Sequence[Gpu]) -> Finding:
    count = Counter((gpu.name, gpu.memory_mib, gpu.driver, gpu.capability) for gpu in gpus)
    described = [
        f"{number} x {name}, {gib(memory * MIB, 0)}, driver {driver}, compute capability {capability:.1f}, "
        f"FP8 {'yes' if capability >= _FP8_CAPABILITY else 'no'}"
        for (name, memory, driver, capability), number in count.items()
    ]
    if len(count) > 1:
        return amber("GPUs", "; ".join(described), "unlike GPUs wait for the slowest: ask for one kind")
    return green("GPUs", f"{described[0]}, ECC {gpus[0].ecc}, MIG {gpus[0].mig}")


def _state(gpus: Sequence[Gpu]) -> list[Finding]:
    findings = []
    if bad := [gpu for gpu in gpus if gpu.ecc_errors]:
        found = ", ".join(f"GPU {gpu.index}: {gpu.ecc_errors}" for gpu in bad)
        remedy = "results may be wrong: take the node out (cluster.exclude=NODE) and tell its administrators"
        findings.append(red("GPU memory errors", f"uncorrected ECC errors, {found}", remedy))
    if busy := [gpu for gpu in gpus if gpu.used_mib > _BUSY_MIB]:
        found = ", ".join(f"GPU {gpu.index}: {gib(gpu.used_mib * MIB, 1)} in use" for gpu in busy)
        findings.append(amber("GPUs in use", found, "another process computes there: nvidia-smi shows which"))
    if any(gpu.mig == "Enabled" for gpu in gpus):
        remedy = "NCCL does not connect slices of one GPU: ask for whole GPUs for more than one rank"
        findings.append(amber("MIG", "GPUs are cut into slices", remedy))
    if any(gpu.ecc == "Disabled" for gpu in gpus):
        findings.append(amber("ECC", "disabled: memory errors go unseen", "nvidia-smi -e 1 (administrators)"))
    return findings
