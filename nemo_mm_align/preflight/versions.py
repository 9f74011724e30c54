"""Python, installed packages against the pins, fused kernels, and whether every rank runs the same."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.core.packages import installed_versions
from nemo_mm_align.core.repository import ROOT
from nemo_mm_align.model.config import is_fp8
from nemo_mm_align.parallel.kernels import Installed
from nemo_mm_align.preflight.finding import Finding, amber, green, rank_list, red
from nemo_mm_align.preflight.programs import run_program

IMAGE_PINS = Path("/opt/nemo_mm_align/image-versions.txt")
"""What an image built from containers/Dockerfile held when it was built; it keeps the base image's own versions."""

ENGINE_RANGES = {
    "torch": ">=2.9",
    "megatron-core": ">=0.16,<0.17",
    "nemo-toolkit": ">=2.7,<2.8",
    "hydra-core": "<=1.3.2",
}
"""Versions that the code runs with; megatron-core and NeMo change their interfaces from one minor version to the next."""

_COMPARED = ("torch", "megatron-core", "nemo-toolkit", "transformer-engine", "lightning", "hydra-core", "numpy")


def check_python(found: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Python 3.11 or 3.12."""
    text = ".".join(map(str, found))
    if (3, 11) <= found[:2] < (3, 13):
        return green("Python", text)
    return red("Python", f"{text}: 3.11 or 3.12 is needed", "PYTHON=/path/to/python3.12 bash scripts/environment.sh")


def read_pins(text: str) -> dict[str, str]:
    """Package -> version of a requirements file's ``name==version`` lines, names normalised."""
    pins = {}
    for line in text.splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;#]+)", line)
        if match:
            pins[normalise(match[1])] = match[2]
    return pins


def normalise(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_of_this_place() -> tuple[str, dict[str, str]]:
    """What the pins are compared with here, and the pins: an image's own versions, or requirements.txt."""
    for path in (IMAGE_PINS, ROOT / "requirements.txt"):
        if path.is_file():
            return path.name, read_pins(path.read_text(encoding="utf-8"))
    return "requirements.txt", {}


def check_pins(source: str, pins: Mapping[str, str], found: Mapping[str, str | None]) -> Finding:
    """Every pinned package is there, in its version; local parts of a version (``+cpu``) do not count."""
    if not pins:
        return amber("packages", "no requirements.txt beside the package", "install from a checkout: pip install -e .")
    missing = sorted(name for name in pins if found.get(name) is None)
    if missing:
        return red(
            "packages", f"missing: {', '.join(missing)}", "bash scripts/environment.sh, then activate what it made"
        )
    other = [f"{name} {found[name]} (pinned {pin})" for name, pin in pins.items() if not _same(str(found[name]), pin)]
    if other:
        shown = ", ".join(other[:6]) + (f" and {len(other) - 6} more" if len(other) > 6 else "")
        return amber(
            "packages", f"not as in {source}: {shown}", "bash scripts/environment.sh, or build the image again"
        )
    return green("packages", f"{len(pins)} as in {source}")


def _same(found: str, pin: str) -> bool:
    return found == pin or found.split("+")[0] == pin


def check_engine(found: Mapping[str, str | None]) -> Finding:
    """torch, megatron-core, NeMo and Hydra are of versions that the code was written for."""
    from packaging.specifiers import SpecifierSet

    wrong = [
        f"{name} {found[name]} ({wanted} is needed)"
        for name, wanted in ENGINE_RANGES.items()
        if found.get(name) and not SpecifierSet(wanted, prereleases=True).contains(str(found[name]))
    ]
    if wrong:
        return red("engine", "; ".join(wrong), "use nvcr.io/nvidia/nemo:26.02 as base, or bash scripts/environment.sh")
    return green("engine", ", ".join(f"{name} {found[name]}" for name in ENGINE_RANGES if found.get(name)))


def check_kernels(
    found: Sequence[Installed], gpu: bool, precision: str, transformer_impl: str = "auto"
) -> list[Finding]:
    """Fused kernels: which are there, and what is lost without them."""
    return [_kernel(item, gpu, precision, transformer_impl) for item in found]


def _kernel(item: Installed, gpu: bool, precision: str, transformer_impl: str) -> Finding:
    package = item.package
    title = f"kernels: {package.name}"
    is_engine = package.name == "TransformerEngine"
    needed = is_engine and (is_fp8(precision) or transformer_impl == "transformer_engine")
    if item.error:
        remedy = "it was built for another torch: use the image's own, or rebuild it"
        found = f"{item.version} does not import: {item.error}"
        return red(title, found, remedy) if needed or is_engine else amber(title, found, remedy)
    if item.version and (gpu or not is_engine):
        return green(title, f"{item.version}: {package.used_for}")
    absent = "not installed" if item.version is None else f"{item.version}, but no GPU"
    if needed:
        reason = f"precision={precision}" if is_fp8(precision) else f"model.transformer_impl={transformer_impl}"
        return red(title, f"{absent}; {reason} needs it", "run in the NGC image on a GPU node, or set precision=bf16")
    if gpu and is_engine:
        return amber(title, f"{absent}: {package.without}", "run in the NGC image (containers/README.md)")
    return green(title, f"{absent}: {package.without}")


def check_checkout(script: Path, package: Path = ROOT) -> Finding | None:
    """The scripts and the package are of one checkout: an image's own PYTHONPATH can win over a job's.

    Args:
        script: the running script, in its checkout's folder scripts.
        package: folder that the package was imported from.
    """
    checkout = script.resolve().parents[1] if script.parent.name == "scripts" else package
    if not (checkout / "nemo_mm_align").is_dir() or checkout == package:
        return None
    if _source_hash(checkout) == _source_hash(package):
        return green("checkout", f"scripts of {checkout}, package of {package}: the same source")
    remedy = (
        "pip install --no-deps -e . in this checkout; in a container build the image from it, or name PYTHONPATH in "
        "cluster.container_env"
    )
    return red("checkout", f"scripts of {checkout}, but the package of {package}, whose source differs", remedy)


def fingerprint() -> dict[str, str]:
    """What must be the same on every rank: Python, engine packages, this package's source and commit."""
    versions = dict.fromkeys(_COMPARED, "missing") | installed_versions(_COMPARED)
    return {"python": platform.python_version(), **versions, "source": _source_hash(), "commit": _commit()}


def _source_hash(root: Path = ROOT) -> str:
    digest, folder = hashlib.sha256(), root / "nemo_mm_align"
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _commit() -> str:
    done = run_program(["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
    return done.stdout.strip() if done else os.environ.get("NEMO_MM_ALIGN_COMMIT", "unknown")


def check_same_everywhere(prints: Mapping[int, Mapping[str, str]]) -> Finding:
    """All ranks run the same Python, packages and source.

    Args:
        prints: rank -> its `fingerprint`.
    """
    differing = []
    for key in next(iter(prints.values())):
        ranks_of: dict[str, list[int]] = {}
        for rank, values in prints.items():
            ranks_of.setdefault(values.get(key, "?"), []).append(rank)
        if len(ranks_of) > 1:
            differing.append(f"{key}: " + ", ".join(f"{v} on ranks {rank_list(r)}" for v, r in ranks_of.items()))
    if differing:
        return red("same on every rank", "; ".join(differing), "give every node the same container image and checkout")
    one = next(iter(prints.values()))
    return green("same on every rank", f"{len(prints)} ranks, source {one['source']}, commit {one['commit']}")
