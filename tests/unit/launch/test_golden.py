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


SITE = (
    "cluster.pull_secret=ngc", "cluster.scheduler=volcano", "cluster.service_account=trainer", "cluster.host_network=true",
    "cluster.ib_interfaces={annotation: rdma, resources: {nvidia.com/rdma: 8}}", "cluster.priority_class=high",
    "cluster.resources={requests: {cpu: 64, memory: 512Gi}, limits: {memory: 1Ti, ephemeral-storage: 200G}}",
    "cluster.cpu_resources.requests={cpu: 500m, memory: 16Gi}", "cluster.node_selector={nvidia.com/gpu.product: H100}",
    "cluster.tolerations=[{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]",
    "cluster.labels={kueue.x-k8s.io/queue-name: team}", "cluster.annotations={sidecar.istio.io/inject: false}",
    "cluster.user=1000", "cluster.group=1001", "train.trainer.num_nodes=1",
)  # fmt: skip


def manifests(*settings: str) -> tuple[dict, dict, dict, dict]:
    """Manifest and pod of a stage of many ranks, and of one without."""
    texts = scripts(*KUBERNETES, *settings, stages=["train", "label"])
    ranked, plain = (yaml.safe_load(texts[stage]) for stage in ("train", "label"))
    assert faults(ranked) == faults(plain) == []
    return ranked, ranked["spec"]["pytorchReplicaSpecs"]["Master"]["template"], plain, plain["spec"]["template"]


def test_settings_of_a_site_reach_all_pods() -> None:
    ranked, gpu_pod, plain, cpu_pod = manifests(*SITE)
    assert list(ranked["spec"]["pytorchReplicaSpecs"]) == ["Master"]
    shared = {
        "nodeSelector": {"nvidia.com/gpu.product": "H100"}, "priorityClassName": "high", "serviceAccountName": "trainer",
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 1001}, "schedulerName": "volcano",
        "imagePullSecrets": [{"name": "ngc"}], "hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet",
    }  # fmt: skip
    tags = {"labels": {"kueue.x-k8s.io/queue-name": "team"}, "annotations": {"sidecar.istio.io/inject": "false"}}
    for manifest, pod in ((ranked, gpu_pod), (plain, cpu_pod)):
        assert {key: pod["spec"][key] for key in shared} == shared
        assert {key: manifest["metadata"][key] for key in tags} == tags
    assert cpu_pod["metadata"] == tags
    assert gpu_pod["metadata"]["annotations"] == {**tags["annotations"], "k8s.v1.cni.cncf.io/networks": "rdma"}
    assert gpu_pod["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "64", "memory": "512Gi"},
        "limits": {"memory": "1Ti", "ephemeral-storage": "200G", "nvidia.com/gpu": "8", "nvidia.com/rdma": "8"},
    }
    assert cpu_pod["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "500m", "memory": "16Gi"}}


def test_stages_without_ranks_take_nodes_of_their_own() -> None:
    gpu = "cluster.node_selector={pool: gpu}"
    _, gpu_pod, _, cpu_pod = manifests(gpu, "cluster.cpu_node_selector={pool: cpu}")
    assert gpu_pod["spec"]["nodeSelector"] == {"pool": "gpu"} and cpu_pod["spec"]["nodeSelector"] == {"pool": "cpu"}
    _, gpu_pod, _, cpu_pod = manifests(gpu, "cluster.cpu_node_selector={}")
    assert gpu_pod["spec"]["nodeSelector"] == {"pool": "gpu"} and "nodeSelector" not in cpu_pod["spec"]


def test_a_mistake_ends_a_job_at_once_and_a_lost_pod_is_made_anew() -> None:
    """By exit codes: the operator's below 128, Kubernetes' as its policy says; a drained pod does not count."""
    ranked, _, plain, pod = manifests("cluster.max_requeues=3", "train.trainer.num_nodes=8")
    assert ranked["spec"]["runPolicy"] == {"cleanPodPolicy": "Running"}
    replicas = ranked["spec"]["pytorchReplicaSpecs"]
    assert {name: (spec["replicas"], spec["restartPolicy"]) for name, spec in replicas.items()} == {
        "Master": (1, "ExitCode"), "Worker": (7, "ExitCode")
    }  # fmt: skip
    assert (plain["spec"]["backoffLimit"], pod["spec"]["restartPolicy"]) == (3, "Never")
    mistake, disruption = plain["spec"]["podFailurePolicy"]["rules"]
    assert mistake == {
        "action": "FailJob", "onExitCodes": {"containerName": "pytorch", "operator": "In", "values": [2]}
    }  # fmt: skip
    assert mistake["onExitCodes"]["containerName"] == pod["spec"]["containers"][0]["name"]
    assert disruption == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


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
