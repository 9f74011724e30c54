"""Files and folders of the job: what it reads is there, what it writes to can be written, every rank sees the same."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.core.folders import can_write, nearest_existing
from nemo_mm_align.core.units import gib
from nemo_mm_align.preflight.finding import Finding, amber, green, rank_list, red
from nemo_mm_align.preflight.job import Job

_SKEW_AMBER_S = 2.0
_SLOW_TOKEN_S = 5.0
_MOUNT = "correct the path, or mount it into the container (container_mounts) on every node"


def inputs_of(job: Job) -> dict[str, str]:
    """What the job reads: name of the setting -> path."""
    found = {f"read[{index}]": str(path) for index, path in enumerate(job.read)}
    keys = ["model.hf_path", "model.checkpoint"] if job.training else []
    keys += ["data.train", "data.image_root", "guards.prompts"] if job.trains else []
    keys += ["data.validation"] if isinstance(job.value("data.validation"), str) else []
    return {**found, **{key: str(value) for key in keys if (value := job.value(key))}}


def check_inputs(inputs: Mapping[str, str]) -> list[Finding]:
    """Every file or folder that the job reads is there and readable; a data set's hub name is left to its own check."""
    findings = []
    for name, text in inputs.items():
        path = Path(text)
        if name in ("data.train", "data.validation") and looks_like_hub_name(text):
            continue
        if not path.exists():
            findings.append(red(name, f"{path}: no such file or folder here", _MOUNT))
        elif not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            findings.append(red(name, f"{path} cannot be read by user {os.getuid()}", "chmod, or run as its owner"))
        else:
            findings.append(green(name, str(path)))
    return findings


def looks_like_hub_name(text: str) -> bool:
    """Whether ``data.train`` names a data set of the Hugging Face hub rather than a file."""
    return not Path(text).exists() and text.count("/") == 1 and not text.startswith(("/", ".", "~")) and "." not in text


def check_open_values(job: Job) -> list[Finding]:
    """Values that the training configuration leaves open although the training needs them."""
    if not job.trains:
        return []
    missing = [key for key in ("data.train", "exp_manager.exp_dir") if not job.value(key)]
    if not job.value("model.hf_path") and not job.value("model.checkpoint"):
        missing.append("model.hf_path (or model.checkpoint)")
    if not missing:
        return []
    return [
        amber("open values", f"not given: {', '.join(missing)}", "give them here as you will give them to the training")
    ]


def check_outputs(folders: Sequence[Path]) -> list[Finding]:
    """Folders that results go to can be written, or made."""
    findings = []
    for folder in folders:
        if can_write(folder):
            findings.append(green(f"writable: {folder}", "yes" if folder.is_dir() else "it will be made"))
        else:
            remedy = "choose another folder, or mount it writable (container_mounts)"
            findings.append(red(f"writable: {folder}", f"not by user {os.getuid()}", remedy))
    return findings


def free_space(folder: Path) -> int:
    """Bytes free on the file system of a folder, or of the nearest one above it that exists."""
    return shutil.disk_usage(nearest_existing(folder)).free


def check_disk(free: int, checkpoint: int, keep: int) -> Finding:
    """Free space against the checkpoints that stay plus the one being written.

    Args:
        free: bytes free where results go.
        checkpoint: bytes of one checkpoint.
        keep: complete checkpoints that are kept (``checkpoint.keep``).
    """
    need = checkpoint * (keep + 1)
    text = f"{gib(free)} free, {keep + 1} checkpoints of {gib(checkpoint)} need {gib(need)}"
    remedy = "free space, choose another exp_manager.exp_dir, or set checkpoint.keep=1"
    if free < need:
        return red("disk for checkpoints", text, remedy)
    if free < 2 * need:
        return amber("disk for checkpoints", f"{text}: little room for logs and other runs", remedy)
    return green("disk for checkpoints", text)


def write_token(folder: Path, name: str) -> str | None:
    """Write a file that all ranks shall see; return why it failed, ``None`` if it did not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="ascii")
    except OSError as error:
        return str(error)
    return None


def wait_for_token(folder: Path, name: str, timeout_s: float) -> float | None:
    """Seconds until this rank reads the token; ``None`` if it never does."""
    start = time.monotonic()
    while True:
        try:
            if (folder / name).read_text(encoding="ascii") == name:
                return time.monotonic() - start
        except OSError:
            pass
        if time.monotonic() - start > timeout_s:
            return None
        time.sleep(0.05)


def remove_token(folder: Path, name: str) -> None:
    """Remove the token."""
    (folder / name).unlink(missing_ok=True)


def check_shared(folder: Path, delays: Mapping[int, float | None], nodes: Mapping[int, str]) -> Finding:
    """Every rank read the file that rank 0 wrote.

    Args:
        folder: where it was written.
        delays: rank -> seconds until it was read, ``None`` where it was not.
        nodes: rank -> name of its node.
    """
    blind = [rank for rank, delay in delays.items() if delay is None]
    if blind:
        where = ", ".join(sorted({nodes.get(rank, "?") for rank in blind}))
        found = f"ranks {rank_list(blind)} ({where}) do not see what rank 0 writes to {folder}"
        return red("shared file system", found, "put results on storage that all nodes mount at the same path")
    slowest = max(delay for delay in delays.values() if delay is not None)
    text = f"{folder}: seen by {len(delays)} ranks, the last after {slowest:.2f} s"
    if slowest > _SLOW_TOKEN_S:
        return amber("shared file system", text, "attribute caching is long: expect slow starts and checkpoints")
    return green("shared file system", text)


def check_clocks(skews: Mapping[int, float], nodes: Mapping[int, str]) -> Finding:
    """Clocks of the nodes against rank 0's.

    Args:
        skews: rank -> its clock minus rank 0's in seconds, message delay included.
        nodes: rank -> name of its node.
    """
    worst = max(skews, key=lambda rank: abs(skews[rank]))
    text = f"at most {abs(skews[worst]):.2f} s apart (rank {worst}, {nodes.get(worst, '?')})"
    if abs(skews[worst]) > _SKEW_AMBER_S:
        return amber("clocks", text, "time stamps of files and logs mislead: have NTP or chrony set up on the nodes")
    return green("clocks", text)
