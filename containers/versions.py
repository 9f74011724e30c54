"""Keeps a base image's packages as they are while others are added. Standard library only: it runs before anything else.

python versions.py freeze FILE                    write all installed packages as name==version
python versions.py missing REQUIREMENTS           print the requirements of which no version is installed
python versions.py unchanged FILE                 fail if a package of FILE has another version now, or is gone
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from pathlib import Path


def normalise(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Every package that Python finds and its version; of two with one name the one that is imported."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(normalise(name), distribution.version)
    return found


def name_of(requirement: str) -> str:
    """The package that a line of a requirements file names; empty for comments."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return normalise(match[1]) if match else ""


def freeze(packages: dict[str, str]) -> str:
    """Lines that pip accepts as constraints."""
    valid = {name: version for name, version in packages.items() if re.fullmatch(r"[0-9][0-9A-Za-z.+!_-]*", version)}
    return "".join(f"{name}=={version}\n" for name, version in sorted(valid.items()))


def missing(requirements: str, packages: dict[str, str]) -> list[str]:
    """Lines of a requirements file of whose package no version is installed."""
    lines = [line.split("#")[0].strip() for line in requirements.splitlines()]
    return [line for line in lines if name_of(line) and name_of(line) not in packages]


def changes(frozen: str, packages: dict[str, str]) -> list[str]:
    """What differs now from a frozen list; additions do not count."""
    differing = []
    for line in frozen.splitlines():
        name, _, version = line.partition("==")
        if packages.get(name) != version:
            differing.append(f"{name} {version} -> {packages.get(name, 'gone')}")
    return differing


def main(command: str, file: str) -> int:
    """Run one command and return its exit code."""
    path, packages = Path(file), installed()
    if command == "freeze":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(freeze(packages), encoding="utf-8")
    elif command == "missing":
        sys.stdout.write("".join(f"{line}\n" for line in missing(path.read_text(encoding="utf-8"), packages)))
    elif command == "unchanged":
        if differing := changes(path.read_text(encoding="utf-8"), packages):
            sys.stderr.write("packages of the base image were changed: " + "; ".join(differing) + "\n")
            return 1
    else:
        sys.stderr.write(f"{__doc__}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) == 3 else main("help", "."))
