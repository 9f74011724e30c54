"""A real all-reduce over all ranks, checked and timed: NCCL on GPUs, gloo on CPUs. The only check that computes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nemo_mm_align.core.units import MIB
from nemo_mm_align.preflight.finding import Finding, amber, green, rank_list, red
from nemo_mm_align.preflight.rendezvous import Rendezvous
from nemo_mm_align.preflight.report import EXIT_RED

if TYPE_CHECKING:
    import torch

_TITLE = "collectives"
_BYTES = {"nccl": 256 * MIB, "gloo": 4 * MIB}
_REPEATS = 5
_REMEDY = (
    "NCCL_DEBUG=INFO shows where it stops; set NCCL_SOCKET_IFNAME (on CPUs GLOO_SOCKET_IFNAME) to the interface that "
    "joins the nodes"
)


def torch_device() -> dict[str, Any]:
    """What torch can compute on here: build, number of GPUs, and why there are none."""
    import torch

    return {"torch": torch.__version__, "cuda_build": torch.version.cuda, "gpus": torch.cuda.device_count()}


def check_torch(found: Mapping[str, Any], gpus_of_node: int) -> Finding:
    """Torch sees the GPUs that nvidia-smi sees.

    Args:
        found: as `torch_device` gives it.
        gpus_of_node: GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES leaves.
    """
    build = f"CUDA {found['cuda_build']}" if found["cuda_build"] else "a CPU build"
    text = f"torch {found['torch']}, {build}, {found['gpus']} GPUs"
    if gpus_of_node and not found["cuda_build"]:
        return red(
            "torch", f"{text}, but the node has {gpus_of_node}", "install torch's CUDA build, or use the NGC image"
        )
    if gpus_of_node > found["gpus"]:
        remedy = "the driver is older than torch's CUDA: compare nvidia-smi's CUDA version, or use an older image"
        return red("torch", f"{text}, but the node has {gpus_of_node}", remedy)
    return green("torch", text)


def choose_backend(devices: Mapping[int, Mapping[str, Any]]) -> str | None:
    """NCCL if every rank has a GPU, gloo if none has; ``None`` if they differ."""
    with_gpu = [bool(found["gpus"]) for found in devices.values()]
    return "nccl" if all(with_gpu) else None if any(with_gpu) else "gloo"


def check_collectives(rendezvous: Rendezvous, backend: str | None) -> Finding | None:
    """All-reduce over all ranks; call it on every one of them.

    Args:
        rendezvous: after a complete roll call.
        backend: ``nccl`` or ``gloo``; ``None`` if the ranks do not have the same devices.

    Returns:
        Rank 0's finding; ``None`` elsewhere.
    """
    if backend is None:
        return red(
            _TITLE, "some ranks have a GPU and some have none", "give every rank a GPU, or none: CUDA_VISIBLE_DEVICES="
        )
    outcome = _run(rendezvous, backend)
    everyone = rendezvous.gather("all_reduce", outcome)
    return judge_outcomes(everyone, rendezvous.ranks.world_size, backend) if rendezvous.ranks.rank == 0 else None


def judge_outcomes(everyone: Mapping[int, Mapping[str, Any]], world_size: int, backend: str) -> Finding:
    """Make one finding of what all ranks report.

    Args:
        everyone: rank -> ``error`` (text or ``None``), ``setup_s``, ``latency_s``, ``gb_per_s``.
        world_size: ranks that should report.
        backend: nccl or gloo.
    """
    silent = sorted(set(range(world_size)) - set(everyone))
    failed = {rank: outcome["error"] for rank, outcome in everyone.items() if outcome["error"]}
    if failed or silent:
        texts = [
            f"{error} (ranks {rank_list(r for r in failed if failed[r] == error)})" for error in set(failed.values())
        ]
        texts += [f"no report from ranks {rank_list(silent)}"] if silent else []
        return red(_TITLE, f"{backend}: {'; '.join(sorted(texts))}", _REMEDY)
    slow = max(everyone, key=lambda rank: everyone[rank]["latency_s"])
    speed = min(outcome["gb_per_s"] for outcome in everyone.values())
    text = (
        f"{backend} all-reduce over {world_size} ranks, values right; set up in "
        f"{max(outcome['setup_s'] for outcome in everyone.values()):.1f} s, small message "
        f"{everyone[slow]['latency_s'] * 1e3:.2f} ms, {_BYTES[backend] // MIB} MiB at {speed:.1f} GB/s bus bandwidth"
    )
    if backend == "nccl" and speed < 2:
        return amber(_TITLE, f"{text}: slower than a 25 Gbit/s network", _REMEDY)
    return green(_TITLE, text)


def _run(rendezvous: Rendezvous, backend: str) -> dict[str, Any]:
    import torch
    from torch.distributed import PrefixStore

    assert rendezvous.store is not None, "a single process has nobody to sum with"
    outcome: dict[str, Any] = {"error": None, "setup_s": 0.0, "latency_s": 0.0, "gb_per_s": 0.0}
    ranks, limit = rendezvous.ranks, timedelta(seconds=rendezvous.timeout_s)
    start = time.monotonic()
    try:
        device = torch.device("cpu")
        if backend == "nccl":
            device = torch.device(
                "cuda", ranks.local_rank % torch.cuda.device_count()
            )  # a task may see its own GPU alone
            torch.cuda.set_device(device)
        torch.distributed.init_process_group(
            backend,
            store=PrefixStore("group", rendezvous.store),
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=limit,
        )
        _sum_of_ranks(ranks.rank, ranks.world_size, device, rendezvous.timeout_s)
        outcome["setup_s"] = time.monotonic() - start
        outcome["latency_s"] = _seconds(torch.ones(1, device=device), rendezvous.timeout_s)
        large = torch.ones(_BYTES[backend] // 4, device=device)
        seconds = _seconds(large, rendezvous.timeout_s)
        outcome["gb_per_s"] = 2 * (ranks.world_size - 1) / ranks.world_size * _BYTES[backend] / seconds / 1e9
        torch.distributed.destroy_process_group()
    except (RuntimeError, ValueError, TimeoutError) as error:
        outcome["error"] = str(error).strip().splitlines()[0][:300]
    return outcome


def _sum_of_ranks(rank: int, world_size: int, device: torch.device, timeout_s: float) -> None:
    """Sum rank + 1 over all ranks: a rank that is missing or counted twice shows in the value."""
    import torch

    tensor = torch.full((1024,), float(rank + 1), device=device)
    _all_reduce(tensor, timeout_s)
    expected = world_size * (world_size + 1) / 2
    if not bool((tensor == expected).all()):
        raise ValueError(f"sum over ranks is {tensor[0].item():g} and not {expected:g}")


def _seconds(tensor: torch.Tensor, timeout_s: float) -> float:
    """Median time of an all-reduce."""
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        _all_reduce(tensor.zero_(), timeout_s)
        times.append(time.perf_counter() - start)
    return sorted(times)[_REPEATS // 2]


def _all_reduce(tensor: torch.Tensor, timeout_s: float) -> None:
    """All-reduce that gives up after `timeout_s`, also on a GPU, where waiting would not."""
    import torch

    work = torch.distributed.all_reduce(tensor, async_op=True)
    deadline = time.monotonic() + timeout_s
    while not work.is_completed():
        if time.monotonic() > deadline:
            raise TimeoutError(f"all-reduce did not end within {timeout_s:g} s")
        time.sleep(0 if time.monotonic() < deadline - timeout_s + 1 else 0.01)
    work.wait()
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def leave_hanging_group() -> None:
    """End this process at once if a process group is still up: its teardown would wait for ranks that are gone."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(EXIT_RED)
