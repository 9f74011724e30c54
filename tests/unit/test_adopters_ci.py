"""What adopters' CI runs is what a person runs; the tools of the extra `dev` are those of the project's own tests."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

WORKFLOWS = ("docs", "fast", "full", "wheel")


def steps(repository: Path, name: str) -> list[dict[str, Any]]:
    workflow = yaml.safe_load((repository / f".github/workflows/{name}.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 120
    found: list[dict[str, Any]] = job["steps"]
    return found


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_one_script_of_the_repository(name: str, repository: Path) -> None:
    (command,) = [step["run"] for step in steps(repository, name) if "run" in step]
    program, script, *words = command.split()
    assert program == "bash" and (repository / script).is_file()
    for word in words:
        assert word == "fast" or (repository / word).exists()


def test_there_are_no_other_workflows(repository: Path) -> None:
    assert {path.stem for path in (repository / ".github/workflows").iterdir()} == set(WORKFLOWS)


def test_the_tools_are_of_one_version_everywhere(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (repository / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("#")[0].strip() for line in lines}
    assert set(project["optional-dependencies"]["dev"]) <= pinned
    hooks = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    for hook in hooks["repos"]:
        for tool in ("ruff", "mypy"):
            if re.search(rf"/{tool}-pre-commit|mirrors-{tool}", str(hook["repo"])):
                assert f"{tool}=={str(hook['rev']).removeprefix('v')}" in pinned
