"""Containers: pins in step with requirements.txt, the base image's packages kept, files that pass their linters."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, missing

CONTAINERS = REPOSITORY / "containers"


def load_versions():
    spec = importlib.util.spec_from_file_location("container_versions", CONTAINERS / "versions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


versions = load_versions()


def pins(path: Path) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return {versions.name_of(line): line.rpartition("==")[2] for line in lines if line}


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/bin")
    if path is None:
        missing(f"{name} is not installed; scripts/environment.sh --dev installs it")
    return path


def test_pins_are_those_of_the_runtime():
    """Every package of requirements.txt is either added by the image in the same version, or named as the base's own."""
    runtime, image = pins(REPOSITORY / "requirements.txt"), pins(CONTAINERS / "requirements.txt")
    text = (CONTAINERS / "requirements.txt").read_text(encoding="utf-8")
    kept = {versions.normalise(name) for name in re.findall(r"^# image: (\S+)$", text, re.MULTILINE)}
    assert image == {name: version for name, version in runtime.items() if name not in kept}
    assert kept <= set(runtime)
    assert {"torch", "megatron-core", "nemo-toolkit"} <= kept


def test_only_what_is_missing_is_added():
    text = "a==1.0  # why\nB_c[extra]==2.0\n# image: torch\nd==3\n"
    assert versions.missing(text, {"b-c": "1.9"}) == ["a==1.0", "d==3"]


def test_a_changed_base_is_found(tmp_path):
    before = {"torch": "2.10.0a0+b4e4ee81d3.nv25.12", "numpy": "1.26.4", "odd": "unknown"}
    frozen = versions.freeze(before)
    assert frozen == "numpy==1.26.4\ntorch==2.10.0a0+b4e4ee81d3.nv25.12\n"  # pip takes no version that is none
    assert versions.changes(frozen, {**before, "new": "1"}) == []
    assert versions.changes(frozen, {"torch": "2.13.0"}) == [
        "numpy 1.26.4 -> gone",
        "torch 2.10.0a0+b4e4ee81d3.nv25.12 -> 2.13.0",
    ]


def test_the_command_fails_when_the_base_changed(tmp_path):
    frozen = tmp_path / "base.txt"
    command = [sys.executable, str(CONTAINERS / "versions.py")]
    subprocess.run([*command, "freeze", str(frozen)], check=True)
    assert "torch==" in frozen.read_text()
    subprocess.run([*command, "unchanged", str(frozen)], check=True)
    frozen.write_text(frozen.read_text() + "tensorflow==2.0\n")
    failed = subprocess.run([*command, "unchanged", str(frozen)], capture_output=True, text=True)
    assert failed.returncode == 1 and "tensorflow 2.0 -> gone" in failed.stderr


def test_hadolint():
    done = subprocess.run([tool("hadolint"), str(CONTAINERS / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["install.sh", "try_build.sh", "try_gpu_stack.sh", "verify.sh"])
def test_shellcheck(script):
    done = subprocess.run([tool("shellcheck"), str(CONTAINERS / script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("variables", "words", "message"),
    [
        ({"PYTHON": "false"}, [], "Python 3.12 is needed"),
        ({"PYTHON": "true"}, [], "no wheel of transformer_engine_torch 2.11.0 in WHEELS=: PyPI has its source alone"),
        ({"PYTHON": "true"}, ["--help"], "takes no arguments; WHEELS, VENV and PYTHON are variables"),
        ({"PYTHON": "true", "VENV": "containers"}, [], "containers exists and was not made by this script"),
    ],
)
def test_the_gpu_stack_says_what_it_lacks_before_it_downloads(variables, words, message, tmp_path):
    """Programs that agree or disagree stand for an interpreter."""
    environment = {"PATH": "/usr/bin:/bin", "VENV": str(tmp_path / "venv"), **variables}
    command = ["bash", str(CONTAINERS / "try_gpu_stack.sh"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not done.stdout and not (tmp_path / "venv").exists()


def test_the_dockerfile_keeps_the_entry_point_and_holds_no_secret():
    text = (CONTAINERS / "Dockerfile").read_text(encoding="utf-8")
    instructions = [line.split()[0] for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    assert instructions[:2] == ["ARG", "FROM"] and "nvcr.io/nvidia/nemo:26.02" in text
    assert not {"ENTRYPOINT", "CMD", "USER"} & set(instructions)
    assert not re.search(r"(?i)(token|api_key|password|secret)\s*=", text)


def test_the_build_context_leaves_out_what_no_image_needs():
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert {"tests", ".git", "data", "results", ".venv*", ".env"} <= set(ignored)
    for needed in ("nemo_mm_align", "scripts", "conf", "containers", "pyproject.toml", "README.md", "requirements.txt"):
        assert needed not in ignored and (REPOSITORY / needed).exists()


def test_what_the_guide_names_exists():
    """Scripts, files and keys of the launcher in containers/README.md."""
    text = (CONTAINERS / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"(?:scripts|containers|conf)/[\w./-]+\.(?:py|sh|yaml|txt|md)", text):
        assert (REPOSITORY / path).exists(), path
    for experiment in re.findall(r"experiment=(\w+)", text):
        assert (REPOSITORY / "conf" / "experiment" / f"{experiment}.yaml").is_file(), experiment
