"""What a container sees of the machine: ``"source:target[:options]"``, and ``"a"`` for ``"a:a"``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Mount:
    """One folder or file of the machine and where the container has it."""

    source: Path
    target: Path
    options: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.target}" + (f":{self.options}" if self.options else "")


def read_mount(value: Any) -> Mount:
    """Read one entry of ``container_mounts``; raise `ValueError` if a path is not absolute."""
    source, _, rest = str(value).partition(":")
    target, _, options = rest.partition(":")
    mount = Mount(Path(source), Path(target or source), options)
    if not (mount.source.is_absolute() and mount.target.is_absolute()):
        raise ValueError(f"{value}: absolute paths are needed, as in /lustre/data or /lustre/data:/data")
    return mount


def outside(path: Path, mounts: Sequence[Mount]) -> Path | None:
    """Return where a path of the container lies on the machine; ``None`` if no mount covers it."""
    covering = [mount for mount in mounts if path.is_relative_to(mount.target)]
    if not covering:
        return None
    mount = max(covering, key=lambda candidate: len(candidate.target.parts))
    return mount.source / path.relative_to(mount.target)
