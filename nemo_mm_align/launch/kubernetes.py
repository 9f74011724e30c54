"""A job as a Kubernetes manifest: a PyTorchJob (kubeflow.org/v1) for stages of many ranks, a plain Job for the others.

The training operator gives each pod of a PyTorchJob its place through ``PET_*`` variables (nodes, node rank, processes,
address and port of the first pod), which torchrun reads; see pkg/controller.v1/pytorch/envvar.go of the operator. A pod
that fails with an exit code below 128 ends its job, with one above it is made anew (restartPolicy ExitCode,
pkg/controller.v1/common/pod.go).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from nemo_mm_align.cli.entry_point import EXIT_CODE as SETTINGS_EXIT_CODE
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.kubernetes_script import pod_script
from nemo_mm_align.launch.kubernetes_settings import KubernetesCluster
from nemo_mm_align.launch.settings import LaunchSettings

NETWORK_ANNOTATION = "k8s.v1.cni.cncf.io/networks"
_CONTAINER = "pytorch"  # the operator looks for this name
_LONGEST_NAME = 52  # of 63: the operator appends -worker-NN


def render_manifest(job: Job, settings: LaunchSettings, cluster: KubernetesCluster) -> str:
    """Return the text of a job's manifest."""
    head = f"# Stage {job.title}, written by scripts/launch.py. kubectl apply -f, then kubectl wait --for={condition(job)}.\n"
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
        return {"replicas": count, "restartPolicy": "ExitCode", "template": _pod(job, settings, cluster)}

    specs = {"Master": replicas(1)} | ({"Worker": replicas(job.nodes - 1)} if job.nodes > 1 else {})
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(job, cluster),
        "spec": {
            "nprocPerNode": str(job.processes_per_node),
            # Pods that still run when another has ended the job must not keep their GPUs.
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": specs,
        },
    }


def _job(job: Job, settings: LaunchSettings, cluster: KubernetesCluster) -> dict[str, Any]:
    template = _pod(job, settings, cluster)
    template["spec"]["restartPolicy"] = "Never"  # what a policy for failures needs
    mistake = {"containerName": _CONTAINER, "operator": "In", "values": [SETTINGS_EXIT_CODE]}
    rules = [
        {"action": "FailJob", "onExitCodes": mistake},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},  # preempted, drained
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job, cluster),
        "spec": {
            "backoffLimit": cluster.max_requeues,
            "podFailurePolicy": {"rules": rules},
            "template": template,
        },
    }


def _metadata(job: Job, cluster: KubernetesCluster) -> dict[str, Any]:
    return {
        "name": object_name(job, cluster),
        "namespace": cluster.namespace,
        **_tags(cluster.labels, cluster.annotations),
    }


def _tags(labels: Mapping[str, str], annotations: Mapping[str, str]) -> dict[str, dict[str, str]]:
    tags = {"labels": dict(labels), "annotations": dict(annotations)}
    return {name: values for name, values in tags.items() if values}


def _pod(job: Job, settings: LaunchSettings, cluster: KubernetesCluster) -> dict[str, Any]:
    volumes, mounts = _volumes(cluster)
    container: dict[str, Any] = {
        "name": _CONTAINER,
        "image": settings.container,
        "command": ["bash", "-c", pod_script(job, settings, cluster)],
        "workingDir": str(settings.launcher_scripts_path),
        "envFrom": [{"secretRef": {"name": cluster.env_secret}}] if cluster.env_secret else None,
        "resources": _resources(job, cluster) or None,
        "securityContext": {"capabilities": {"add": list(cluster.capabilities)}} if job.ranked else None,
        "volumeMounts": mounts,
    }
    dns = "ClusterFirstWithHostNet" if cluster.host_network else None  # else pods would not find each other by name
    spec = {
        "containers": [_present(container)],
        "volumes": volumes,
        "nodeSelector": _node_selector(job, cluster) or None,
        "tolerations": [item.model_dump(exclude_none=True) for item in cluster.tolerations] or None,
        "priorityClassName": cluster.priority_class,
        "securityContext": _user(cluster) or None,
        "imagePullSecrets": [{"name": cluster.pull_secret}] if cluster.pull_secret else None,
        "hostNetwork": True if cluster.host_network else None,
        "dnsPolicy": cluster.dns_policy or dns,
        "schedulerName": cluster.scheduler,
        "serviceAccountName": cluster.service_account,
        "terminationGracePeriodSeconds": cluster.termination_grace_s,
    }
    network = cluster.ib_interfaces.annotation if job.ranked else None
    tags = _tags(cluster.labels, {**cluster.annotations, **({NETWORK_ANNOTATION: network} if network else {})})
    return {**({"metadata": tags} if tags else {}), "spec": _present(spec)}


def _resources(job: Job, cluster: KubernetesCluster) -> dict[str, dict[str, str]]:
    given = cluster.resources if job.ranked else cluster.cpu_resources
    gpus = {cluster.gpu_resource: job.processes_per_node} if cluster.gpus_per_node else {}
    devices = {**gpus, **cluster.ib_interfaces.resources} if job.ranked else {}
    limits = {name: str(count) for name, count in devices.items()}
    resources = {
        "requests": {str(name): quantity for name, quantity in given.requests.items()},
        "limits": {str(name): quantity for name, quantity in given.limits.items()} | limits,
    }
    return {name: values for name, values in resources.items() if values}


def _node_selector(job: Job, cluster: KubernetesCluster) -> dict[str, str]:
    if job.ranked or cluster.cpu_node_selector is None:
        return dict(cluster.node_selector)
    return dict(cluster.cpu_node_selector)


def _user(cluster: KubernetesCluster) -> dict[str, int]:
    ids = {"runAsUser": cluster.user, "runAsGroup": cluster.group, "fsGroup": cluster.group}
    return {name: number for name, number in ids.items() if number is not None}


def _volumes(cluster: KubernetesCluster) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = [
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shm_size}},
    ]
    mounts = [{"name": "dshm", "mountPath": "/dev/shm"}]
    for name, source in cluster.volumes.items():
        volumes.append({"name": name, **{key: value for key, value in source.items() if key != "mountPath"}})
        mounts.append({"name": name, "mountPath": source["mountPath"]})
    return volumes, mounts


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
