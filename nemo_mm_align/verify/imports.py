"""Step ``imports``: every pinned package with its version, every module of the project, and the fused kernels.

``python -m nemo_mm_align.verify.imports FILE`` does the importing, which may end in a crash, and writes what it found.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import pkgutil
import sys
import warnings
from pathlib import Path
from typing import Any

from nemo_mm_align.benchmarks.tables import text_table
from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.core.repository import ROOT
from nemo_mm_align.preflight.versions import ENGINE_RANGES, normalise, read_pins
from nemo_mm_align.verify.context import Context
from nemo_mm_align.verify.outcome import Outcome, Verdict

_MODULES = {
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "protobuf": "google.protobuf",
    "google-generativeai": "google.generativeai",
    "prometheus-client": "prometheus_client",
}
_MODULES |= {"megatron-core": "megatron.core", "nemo-toolkit": "nemo", "hydra-core": "hydra"}
"""Modules of packages that are not called like them."""

Found = dict[str, Any]


def perform(context: Context) -> Outcome:
    """Import everything in a process of its own and judge what it found."""
    file = context.work / "imports.json"
    ended = context.python(["-m", "nemo_mm_align.verify.imports", str(file)])
    if not file.is_file():
        return Outcome(Verdict.FAILED, f"importing ended without a result: {ended.how}", lines=ended.lines)
    found = json.loads(file.read_text(encoding="utf-8"))
    outcome = judge(found)
    return Outcome(outcome.verdict, outcome.found, outcome.figures, ended.lines)


def judge(found: Found) -> Outcome:
    """Verdict on what `look` found: a package that is missing or does not import, or a module that does not."""
    bad = [package["name"] for package in found["packages"] if package["error"]]
    bad += [name for name in found["modules"]["failed"]]
    count = f"{len(found['packages'])} packages, {found['modules']['imported']} modules of nemo_mm_align"
    if bad:
        return Outcome(Verdict.FAILED, f"{', '.join(bad)} of {count}", figures(found))
    return Outcome(Verdict.PASSED, count, figures(found))


def figures(found: Found) -> str:
    """Table of packages, then what failed, then the kernels."""
    rows = [(line["name"], line["version"] or "–", line["pinned"], line["error"] or "") for line in found["packages"]]
    failed = [f"- `{name}`: {error}" for name, error in found["modules"]["failed"].items()]
    table = text_table(("package", "version", "pinned here", "does not import"), rows)
    return "\n\n".join(filter(None, [table, "\n".join(failed), f"```\n{found['kernels']}\n```"]))


def look() -> Found:
    """Import all of it."""
    pins = read_pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    packages = [{"name": name, "pinned": pin, **_package(name)} for name, pin in pins.items()]
    modules = _own_modules()
    from nemo_mm_align.parallel import kernels  # after torch, which may be what is broken

    return {"packages": packages, "modules": modules, "kernels": kernels.report()}


def _package(name: str) -> dict[str, str | None]:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return {"version": None, "error": "not installed"}
    return {"version": version, "error": _error(_MODULES.get(name, name.replace("-", "_"))) or _range(name, version)}


def _range(name: str, version: str) -> str | None:
    """What is wrong with the version of a package of which the code runs with some alone."""
    from packaging.specifiers import SpecifierSet

    wanted = ENGINE_RANGES.get(normalise(name))
    fits = wanted is None or SpecifierSet(wanted, prereleases=True).contains(version)
    return None if fits else f"{wanted} is needed"


def _error(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken build raises whatever it likes
        return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    return None


def _own_modules() -> dict[str, Any]:
    package = importlib.import_module("nemo_mm_align")
    names = [found.name for found in pkgutil.walk_packages(package.__path__, "nemo_mm_align.")]
    names = [name for name in names if not name.endswith("__main__")]
    errors = {name: error for name in names if (error := _error(name))}
    return {"imported": len(names) - len(errors), "failed": errors}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    write_json(Path(sys.argv[1]), look())
