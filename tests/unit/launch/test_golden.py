"""Rendered scripts and manifests, to the letter, and what shellcheck, bash and yamllint say of them.

After a change that is meant: UPDATE_GOLDEN=1 pytest tests/unit/launch/test_golden.py, and read the difference.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from tests.kubernetes_schema import job_schema, pytorch_job_schema
from tests.unit.launch.cases import KUBERNETES, MATRIX, scripts

GOLDEN = Path(__file__).with_name("golden")
PROGRAMS = Path(sys.executable).parent
KEPT = [
    ("srun", "train"),
    ("srun", "sample"),
    ("srun_container", "train"),
    ("srun_container", "label"),
    ("torchrun", "train"),
    ("torchrun", "build"),
    ("torchrun_container", "generate"),
    ("interactive", "train"),
    ("interactive", "evaluate"),
    ("kubernetes", "train"),
    ("kubernetes", "label"),
]


@pytest.fixture(scope="module")
def rendered() -> dict[str, dict[str, str]]:
    return {case: scripts(*overrides) for case, overrides in MATRIX.items()}


@pytest.fixture(scope="module")
def bash_files(rendered: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every script of every case, those inside manifests too."""
    folder, files = tmp_path_factory.mktemp("scripts"), []
    for case, stages in rendered.items():
        for stage, text in stages.items():
            files.append(folder / f"{case}_{stage}.sh")
            files[-1].write_text(text if case != "kubernetes" else f"#!/bin/bash\n{inner_script(yaml.safe_load(text))}")
    return files


def inner_script(manifest: dict) -> str:
    spec = manifest["spec"]
    template = spec.get("template") or spec["pytorchReplicaSpecs"]["Master"]["template"]
    return template["spec"]["containers"][0]["command"][2]


@pytest.mark.parametrize(("case", "stage"), KEPT)
def test_scripts_are_what_they_were(rendered: dict[str, dict[str, str]], case: str, stage: str) -> None:
    path = GOLDEN / f"{case}_{stage}.{'yaml' if case == 'kubernetes' else 'sh'}"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(rendered[case][stage], encoding="utf-8")
    assert rendered[case][stage] == path.read_text(encoding="utf-8")


def test_shellcheck_finds_nothing(bash_files: list[Path]) -> None:
    assert len(bash_files) == len(MATRIX) * 6
    done = subprocess.run([PROGRAMS / "shellcheck", *bash_files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:4000]


def test_bash_reads_them(bash_files: list[Path]) -> None:
    for path in bash_files:
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), path


def test_yamllint_finds_nothing(rendered: dict[str, dict[str, str]], repository: Path, tmp_path: Path) -> None:
    for stage, text in rendered["kubernetes"].items():
        (tmp_path / f"{stage}.yaml").write_text(text)
    rules = (
        "{extends: default, rules: {line-length: disable, document-start: disable, braces: disable, comments: disable}}"
    )
    command = [
        PROGRAMS / "yamllint",
        "-s",
        "-d",
        rules,
        tmp_path,
        repository / "conf/launch.yaml",
        repository / "conf/cluster",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:4000]


def faults(manifest: dict) -> list[str]:
    schema = pytorch_job_schema() if manifest["kind"] == "PyTorchJob" else job_schema()
    found: list[ValidationError] = list(Draft202012Validator(schema).iter_errors(manifest))
    return [error.message for error in found]


@pytest.mark.parametrize("stage", ["sample", "label", "build", "train", "generate", "evaluate"])
def test_manifests_fit_their_schema(rendered: dict[str, dict[str, str]], stage: str) -> None:
    manifest = yaml.safe_load(rendered["kubernetes"][stage])
    assert manifest["kind"] == ("PyTorchJob" if stage in ("sample", "train", "generate") else "Job")
    assert faults(manifest) == []


def test_every_setting_of_kubernetes_fits_the_schema() -> None:
    settings = (
        "cluster.pull_secret=ngc", "cluster.dns_policy=ClusterFirstWithHostNet", "cluster.scheduler=volcano",
        "cluster.service_account=trainer", "cluster.ib_interfaces={annotation: rdma, resources: {nvidia.com/rdma: 8}}",
        "train.trainer.num_nodes=1",
    )  # fmt: skip
    manifest = yaml.safe_load(scripts(*KUBERNETES, *settings, stages=["train"])["train"])
    assert faults(manifest) == []
    assert list(manifest["spec"]["pytorchReplicaSpecs"]) == ["Master"]
    template = manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    assert template["metadata"]["annotations"] == {"k8s.v1.cni.cncf.io/networks": "rdma"}
    assert template["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8", "nvidia.com/rdma": "8"}


@pytest.mark.parametrize(("nodes", "limit"), [(1, 4), (8, 25)])
def test_a_fault_that_restarts_all_pods_counts_once(nodes: int, limit: int) -> None:
    """The operator adds up the restarts of all pods and gives up when the sum reaches the limit."""
    settings = ("cluster.max_requeues=3", f"train.trainer.num_nodes={nodes}")
    policy = yaml.safe_load(scripts(*KUBERNETES, *settings, stages=["train"])["train"])["spec"]["runPolicy"]
    assert policy == {"backoffLimit": limit, "cleanPodPolicy": "Running"}


@pytest.mark.parametrize(
    ("place", "wrong", "value"),
    [
        ((), "specs", {}),
        (("spec",), "nprocPerNodes", "8"),
        (("spec", "runPolicy"), "backofLimit", 3),
        (("spec", "pytorchReplicaSpecs", "Master"), "restartPolcy", "Never"),
        (("spec", "pytorchReplicaSpecs", "Master", "template", "spec"), "dnsPolicie", "Default"),
        (("spec", "pytorchReplicaSpecs", "Master", "template", "spec", "containers", 0), "volumeMount", []),
        (("spec", "runPolicy"), "backoffLimit", "three"),
    ],
)
def test_misspelt_keys_and_wrong_types_are_rejected(
    rendered: dict[str, dict[str, str]], place: tuple[str | int, ...], wrong: str, value: object
) -> None:
    manifest = node = yaml.safe_load(rendered["kubernetes"]["train"])
    for key in place:
        node = node[key]
    node[wrong] = value
    assert len(faults(manifest)) == 1


def test_a_missing_mandatory_key_is_rejected(rendered: dict[str, dict[str, str]]) -> None:
    manifest = yaml.safe_load(rendered["kubernetes"]["train"])
    del manifest["spec"]["pytorchReplicaSpecs"]
    assert faults(manifest) == ["'pytorchReplicaSpecs' is a required property"]
