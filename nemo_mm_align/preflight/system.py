"""What the operating system gives a rank: shared memory, limits, caches, and the settings of NCCL and MPI."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.core.folders import can_write
from nemo_mm_align.core.units import GIB, MIB, gib
from nemo_mm_align.preflight.finding import Finding, amber, green, red
from nemo_mm_align.preflight.programs import run_program

_SHM_SMALL, _SHM_TINY = 1 * GIB, 128 * MIB
_FILES_FEW, _FILES_TOO_FEW = 4096, 512


def check_shared_memory(size: int, several_ranks: bool) -> Finding:
    """/dev/shm, through which the ranks of a node and data-loading workers exchange buffers.

    Args:
        size: bytes of the file system; 0 where there is none.
        several_ranks: more than one rank runs on this node.
    """
    remedy = "docker --shm-size=16g (or --ipc=host), Kubernetes cluster.shm_size, enroot and Slurm: the host's own"
    text = gib(size, 1)
    if size < _SHM_TINY and several_ranks:
        return red("/dev/shm", f"{text}: NCCL between the ranks of a node would fail", remedy)
    if size < _SHM_SMALL:
        return amber("/dev/shm", f"{text}: little for several ranks or data.num_workers above 0", remedy)
    return green("/dev/shm", text)


def shared_memory_size() -> int:
    """Bytes of /dev/shm, 0 where there is none."""
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return 0


def check_limits(limits: Mapping[str, int], infiniband: bool) -> list[Finding]:
    """Limits of a process.

    Args:
        limits: soft limits ``files``, ``locked_memory`` (bytes) and ``processes``; -1 is unlimited.
        infiniband: the node has InfiniBand or RoCE adapters, which register memory.
    """
    files, locked, processes = limits["files"], limits["locked_memory"], limits["processes"]
    findings = []
    if 0 <= files < _FILES_FEW:
        make = red if files < _FILES_TOO_FEW else amber
        findings.append(make("limits", f"{files} open files", "ulimit -n 65536 in the job script, or limits.conf"))
    if infiniband and locked >= 0:
        remedy = "ulimit -l unlimited for jobs (limits.conf, slurmd's LimitMEMLOCK); docker --ulimit memlock=-1"
        findings.append(amber("limits", f"{gib(locked)} of locked memory: RDMA may fail to register", remedy))
    if 0 <= processes < _FILES_FEW:
        findings.append(amber("limits", f"{processes} processes and threads", "ulimit -u 65536 in the job script"))
    many = "unlimited" if files < 0 else str(files)
    return findings or [green("limits", f"{many} open files")]


def read_limits() -> dict[str, int]:
    """This process's soft limits as `check_limits` takes them."""
    kinds = {
        "files": resource.RLIMIT_NOFILE,
        "locked_memory": resource.RLIMIT_MEMLOCK,
        "processes": resource.RLIMIT_NPROC,
    }
    return {name: resource.getrlimit(kind)[0] for name, kind in kinds.items()}


def adapters() -> list[str]:
    """InfiniBand and RoCE adapters of this node."""
    return _devices("infiniband")


def interfaces() -> list[str]:
    """Network interfaces of this node."""
    return _devices("net")


def _devices(kind: str) -> list[str]:
    folder = Path("/sys/class") / kind
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def check_caches(environment: Mapping[str, str]) -> Finding:
    """HOME and the caches that torch, Triton and Hugging Face write to can be written by this user."""
    home = environment.get("HOME", "/")
    caches = {
        "HF_HOME": environment.get("HF_HOME") or f"{environment.get('XDG_CACHE_HOME') or f'{home}/.cache'}/huggingface",
        "TRITON_CACHE_DIR": environment.get("TRITON_CACHE_DIR") or f"{home}/.triton",
    }
    closed = [f"{name} ({folder})" for name, folder in caches.items() if not can_write(Path(folder))]
    if closed:
        remedy = "set them in env_vars to folders of your own: HF_HOME on shared storage, TRITON_CACHE_DIR on the node"
        return amber("caches", f"cannot be written: {', '.join(closed)}", remedy)
    return green("caches", ", ".join(f"{name} {folder}" for name, folder in caches.items()))


def check_nccl(
    environment: Mapping[str, str], there: Sequence[str], fabric: Sequence[str], gpu: bool, nodes: int
) -> list[Finding]:
    """NCCL's variables: traps that cost speed, hide faults or keep the ranks apart.

    Args:
        environment: variables of the rank.
        there: network interfaces of the node.
        fabric: its InfiniBand or RoCE adapters.
        gpu: NCCL is going to be used.
        nodes: how many nodes take part.
    """
    findings = [*_interface_names(environment, there, "NCCL_SOCKET_IFNAME")]
    if not gpu:
        findings += _interface_names(environment, there, "GLOO_SOCKET_IFNAME")
    topology = environment.get("NCCL_TOPO_FILE")
    if topology and not Path(topology).is_file():
        remedy = "mount it into the container (container_mounts) or unset it"
        findings.append(red("NCCL", f"NCCL_TOPO_FILE={topology} does not exist here", remedy))
    findings += [_slow(name, environment[name]) for name in _SLOW if environment.get(name) == "1"]
    if environment.get("NCCL_DEBUG", "").upper() in ("INFO", "TRACE"):
        found = f"NCCL_DEBUG={environment['NCCL_DEBUG']}: megabytes of log per node"
        findings.append(amber("NCCL", found, "NCCL_DEBUG=WARN once the network is known to work"))
    if environment.get("TORCH_NCCL_ASYNC_ERROR_HANDLING") == "0":
        remedy = "unset TORCH_NCCL_ASYNC_ERROR_HANDLING"
        findings.append(amber("NCCL", "error handling is off: when one rank dies the others hang", remedy))
    if gpu and nodes > 1 and not fabric:
        remedy = "expose the adapters to the container (/dev/infiniband), or expect the speed of the socket network"
        findings.append(amber("NCCL", "no InfiniBand or RoCE adapter here: nodes talk over TCP", remedy))
    if findings:
        return findings
    names = sorted(name for name in environment if name.startswith("NCCL_"))
    return [green("NCCL", f"adapters: {', '.join(fabric) or 'none'}; set: {', '.join(names) or 'nothing'}")]


_SLOW = {
    "NCCL_P2P_DISABLE": "GPUs of a node do not talk over NVLink",
    "NCCL_IB_DISABLE": "nodes do not talk over InfiniBand",
    "NCCL_SHM_DISABLE": "ranks of a node do not share memory",
    "CUDA_LAUNCH_BLOCKING": "every kernel waits for the one before",
}


def _slow(name: str, value: str) -> Finding:
    return amber("NCCL", f"{name}={value}: {_SLOW[name]}", f"unset {name} after the fault it was set for is found")


def _interface_names(environment: Mapping[str, str], there: Sequence[str], variable: str) -> list[Finding]:
    """Check NCCL's syntax: prefixes, ``=`` for an exact name, ``^`` for all but these."""
    value = environment.get(variable, "")
    if not value or value.startswith("^"):
        return []
    exact = value.startswith("=") or variable.startswith("GLOO")
    wanted = [name.partition(":")[0] for name in value.lstrip("=").split(",")]
    if any(name == given if exact else name.startswith(given) for name in there for given in wanted):
        return []
    remedy = f"interfaces here: {', '.join(there)}; set {variable} to one that all nodes have"
    return [red("NCCL", f"{variable}={value} names no interface of this node", remedy)]


def check_connections(environment: Mapping[str, str], capability: float | None, tensor_parallel: int) -> Finding | None:
    """CUDA_DEVICE_MAX_CONNECTIONS=1, which orders communication and compute for TP on GPUs before Blackwell."""
    value = environment.get("CUDA_DEVICE_MAX_CONNECTIONS")
    if capability is None or capability >= 10 or tensor_parallel == 1 or value == "1":
        return None
    found = f"is {value or 'not set'} with tensor_model_parallel_size={tensor_parallel}: communication may not overlap"
    return amber("CUDA_DEVICE_MAX_CONNECTIONS", found, "env_vars.CUDA_DEVICE_MAX_CONNECTIONS=1")


def check_mpi(environment: Mapping[str, str], kinds: str | None, default: str | None) -> Finding | None:
    """Slurm's MPI plugin: PyTorch needs none, and pmix keeps containers from starting.

    Args:
        environment: variables of the rank.
        kinds: what ``srun --mpi=list`` says; ``None`` where there is no srun (inside a container).
        default: Slurm's MpiDefault.
    """
    chosen = environment.get("SLURM_MPI_TYPE") or default or ""
    if kinds is None and not chosen:
        return None
    offered = " ".join((kinds or "").split())
    if chosen.startswith("pmix"):
        remedy = "cluster.mpi=none (srun --mpi=none); pmix also needs enroot's pmix hook"
        return amber("MPI", f"Slurm's default is {chosen}: tasks in containers often fail at their start", remedy)
    return green("MPI", f"Slurm's plugin: {chosen or 'none'}; {offered or 'no srun here'}")


def slurm_mpi() -> tuple[str | None, str | None]:
    """The MPI plugins that srun offers and Slurm's default; ``None`` each where Slurm's commands are missing."""
    kinds = _output(["srun", "--mpi=list"])
    config = _output(["scontrol", "show", "config"]) if kinds is not None else None
    lines = [line.partition("=")[2].strip() for line in (config or "").splitlines() if line.startswith("MpiDefault")]
    return kinds, lines[0] if lines else None


def _output(command: list[str]) -> str | None:
    done = run_program(command)
    return (done.stdout or done.stderr).strip() if done else None
