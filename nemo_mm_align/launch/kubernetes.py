"""A job as a Kubernetes manifest: a PyTorchJob (kubeflow.org/v1) for stages of many ranks, a plain Job for the others.

The training operator gives each pod of a PyTorchJob its place through ``PET_*`` variables (nodes, node rank, processes,
address and port of the first pod), which torchrun reads; see pkg/controller.v1/pytorch/envvar.go of the operator.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from nemo_mm_align.launch import script
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.settings import KubernetesCluster, LaunchSettings
from nemo_mm_align.launch.shell import RUN_FUNCTION, command_lines, python_words, quote, torchrun_words

NETWORK_ANNOTATION = "k8s.v1.cni.cncf.io/networks"
_LONGEST_NAME = 52  # of 63: the operator appends -worker-NN

_STOP = """\
# A pod that has to leave gets TERM: the ranks look for this file, save and end.
rm -f "$stop_file"
trap 'interrupted=yes; echo "asked to stop"; touch "$stop_file"' TERM"""

_STOP_SINGLE = """\
# A pod that has to leave gets TERM and hands it on.
task=
trap 'interrupted=yes; echo "asked to stop"; [ -z "$task" ] || kill -TERM "$task"' TERM"""


def render_manifest(job: Job, settings: LaunchSettings, cluster: KubernetesCluster) -> str:
    """Return the text of a job's manifest."""
    head = f"# Stage {job.stage}, written by scripts/launch.py. kubectl apply -f, then kubectl wait --for={condition(job)}.\n"
    manifest = _pytorch_job(job, settings, cluster) if job.ranked else _job(job, settings, cluster)
    return head + yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=1_000_000)


def object_name(job: Job, cluster: KubernetesCluster) -> str:
    """Return the name of a job's object as Kubernetes allows it."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{cluster.job_name_prefix}{job.name}".lower()).strip("-")
    return name if len(name) <= _LONGEST_NAME else name[-_LONGEST_NAME:].lstrip("-")


def kind(job: Job) -> str:
    """Return the kind of a job's object, as kubectl names it."""
    return "pytorchjob" if job.ranked else "job"


def condition(job: Job) -> str:
    """Return the condition that tells the end of a job's object."""
    return f"condition={'Succeeded' if job.ranked else 'complete'}"


def _pytorch_job(job: Job, settings: LaunchSettings, cluster: KubernetesCluster) -> dict[str, Any]:
    def replicas(count: int) -> dict[str, Any]:
        return {"replicas": count, "restartPolicy": "OnFailure", "template": _pod(job, settings, cluster)}

    specs = {"Master": replicas(1)} | ({"Worker": replicas(job.nodes - 1)} if job.nodes > 1 else {})
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(job, cluster),
        "spec": {
            "nprocPerNode": str(job.processes_per_node),
            # The operator gives up when the restarts of all pods together reach the limit, and one fault restarts every
            # pod. Pods that still run when it gives up must not keep their GPUs.
            "runPolicy": {"backoffLimit": cluster.max_requeues * job.nodes + 1, "cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": specs,
        },
    }


def _job(job: Job, settings: LaunchSettings, cluster: KubernetesCluster) -> dict[str, Any]:
    template = _pod(job, settings, cluster)
    template["spec"]["restartPolicy"] = "OnFailure"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job, cluster),
        "spec": {"backoffLimit": cluster.max_requeues, "template": template},
    }


def _metadata(job: Job, cluster: KubernetesCluster) -> dict[str, Any]:
    return {"name": object_name(job, cluster), "namespace": cluster.namespace}


def _pod(job: Job, settings: LaunchSettings, cluster: KubernetesCluster) -> dict[str, Any]:
    volumes, mounts = _volumes(cluster)
    container: dict[str, Any] = {
        "name": "pytorch",  # the operator looks for this name
        "image": settings.container,
        "command": ["bash", "-c", _script(job, settings)],
        "workingDir": str(settings.launcher_scripts_path),
        "envFrom": [{"secretRef": {"name": cluster.env_secret}}] if cluster.env_secret else None,
        "resources": {"limits": _limits(job, cluster)} if job.ranked else None,
        "securityContext": {"capabilities": {"add": list(cluster.capabilities)}} if job.ranked else None,
        "volumeMounts": mounts,
    }
    spec = {
        "containers": [_present(container)],
        "volumes": volumes,
        "imagePullSecrets": [{"name": cluster.pull_secret}] if cluster.pull_secret else None,
        "dnsPolicy": cluster.dns_policy,
        "schedulerName": cluster.scheduler,
        "serviceAccountName": cluster.service_account,
        "terminationGracePeriodSeconds": cluster.termination_grace_s,
    }
    annotation = cluster.ib_interfaces.annotation
    head = {"metadata": {"annotations": {NETWORK_ANNOTATION: annotation}}} if annotation and job.ranked else {}
    return {**head, "spec": _present(spec)}


def _limits(job: Job, cluster: KubernetesCluster) -> dict[str, str]:
    gpus = {cluster.gpu_resource: job.processes_per_node} if cluster.gpus_per_node else {}
    return {name: str(count) for name, count in {**gpus, **cluster.ib_interfaces.resources}.items()}


def _volumes(cluster: KubernetesCluster) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = [
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shm_size}},
    ]
    mounts = [{"name": "dshm", "mountPath": "/dev/shm"}]
    for name, source in cluster.volumes.items():
        volumes.append({"name": name, **{key: value for key, value in source.items() if key != "mountPath"}})
        mounts.append({"name": name, "mountPath": source["mountPath"]})
    return volumes, mounts


def _script(job: Job, settings: LaunchSettings) -> str:
    # A port of their own: the last of the checks may end while a pod that was faster starts the stage.
    checks = ["run", *_words(script.preflight_command(job), job, settings, '--master-port="$((MASTER_PORT + 1))"')]
    parts = [
        ["set -u"],
        script.variable_lines(job, settings),
        [f"cd {quote(settings.launcher_scripts_path)} || exit 1", 'mkdir -p "$results"'],
        [_STOP if job.ranked else _STOP_SINGLE],
        [RUN_FUNCTION],
        script.preflight_lines(command_lines(checks)) if settings.preflight else [],
        [*command_lines(["run", *_words(script.stage_command(job), job, settings)]), "code=$?"],
        script.end_lines(job),
    ]
    return script.text_of(parts)


def _words(command: script.Command, job: Job, settings: LaunchSettings, *options: str) -> list[str]:
    if job.ranked:
        return torchrun_words(settings.python, options, command.script, command.overrides)
    return python_words(settings.python, command.script, command.overrides)


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


class _Dumper(yaml.SafeDumper):
    """Indents lists, writes scripts as blocks and no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
