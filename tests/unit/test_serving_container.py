"""The server's container: a hardened pod that passes Kubernetes' schemas, and a start that passes its settings on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.kubernetes_schema import schema_of
from tests.unit.test_containers import tool

FOLDER = REPOSITORY / "containers/serve"


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    found = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {one["kind"]: one for one in found}


@pytest.fixture(scope="module")
def pod(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_manifests_are_valid(objects: dict[str, dict[str, Any]]) -> None:
    assert set(objects) == {"Deployment", "Service", "NetworkPolicy"}
    for kind, found in objects.items():
        jsonschema.validate(found, schema_of(kind))
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**objects["Service"], "specs": {}}, schema_of("Service"))


def test_the_pod_is_hardened(pod: dict[str, Any]) -> None:
    """Kubernetes' restricted profile, and a root file system that cannot be written to."""
    (server,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    own = server["securityContext"]
    assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    writable = {mount["mountPath"] for mount in server["volumeMounts"] if not mount.get("readOnly")}
    caches = {item["value"] for item in server["env"] if item["name"].endswith(("_DIR", "CONFIGDIR"))}
    assert writable == {"/tmp", "/dev/shm"} and all(path.startswith("/tmp/") for path in caches)


def test_draining_has_its_time(pod: dict[str, Any]) -> None:
    (server,) = pod["containers"]
    drain = next(float(arg.partition("=")[2]) for arg in server["args"] if arg.startswith("drain_seconds="))
    stop = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= drain + stop + 10


def test_arguments_are_settings_of_the_server(pod: dict[str, Any]) -> None:
    known = set(yaml.safe_load((REPOSITORY / "conf/serve.yaml").read_text(encoding="utf-8")))
    (server,) = pod["containers"]
    assert {arg.partition("=")[0] for arg in server["args"]} <= known
    port = yaml.safe_load((REPOSITORY / "conf/serve.yaml").read_text(encoding="utf-8"))["port"]
    assert server["ports"] == [{"name": "http", "containerPort": port}]


def started(tmp_path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the script would run: programs that show their arguments stand for Python and torchrun."""
    for name in ("python", "torchrun"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s|" {name} "$@"\n', encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment}
    command = ["bash", str(FOLDER / "serve.sh"), *words]
    return subprocess.run(command, env=variables, capture_output=True, text=True, cwd="/")


def test_settings_are_passed_on_as_they_are(tmp_path: Path) -> None:
    alone = started(tmp_path, "checkpoint=/a b", "aliases={short: {verbosity: 0}}")
    assert alone.stdout == "python|scripts/serve.py|host=0.0.0.0|checkpoint=/a b|aliases={short: {verbosity: 0}}|"
    two = started(tmp_path, "checkpoint=m", RANKS="2")
    assert two.stdout == "torchrun|--standalone|--nproc-per-node|2|scripts/serve.py|host=0.0.0.0|checkpoint=m|"
    for wrong in ("0", "two", "-1"):
        refused = started(tmp_path, RANKS=wrong)
        assert refused.returncode == 2 and "give the number of processes" in refused.stderr


def test_linters() -> None:
    for program, name in (("hadolint", "Dockerfile"), ("shellcheck", "serve.sh")):
        done = subprocess.run([tool(program), str(FOLDER / name)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_image_runs_as_nobody_in_particular() -> None:
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", text, re.MULTILINE)
    assert not re.search(r"(?i)(token|api_key|password|secret)\s*=", text)
    assert "serve.sh" in text.splitlines()[-1]
