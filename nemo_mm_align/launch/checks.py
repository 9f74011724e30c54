"""What can be known to go wrong before anything is submitted; every fault at once, each with its remedy."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from nemo_mm_align.core.credentials import judge_key_variables, wandb_login
from nemo_mm_align.core.folders import can_write
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.mounts import outside
from nemo_mm_align.launch.settings import InteractiveCluster, KubernetesCluster, LaunchSettings, SlurmCluster
from nemo_mm_align.launch.task_answers import asks_judge_of, task_files

logger = logging.getLogger(__name__)

_READ = {
    "sample": ("prompts", "checkpoint", "image_root"),
    "label": ("prompts", "candidates", "image_root", "judge.api_key_file"),
    "annotate": ("prompts", "candidates", "checkpoint", "base", "image_root"),
    "build": ("annotations",),
    "train": (
        "data.train",
        "data.validation",
        "guards.prompts",
        "data.image_root",
        "model.hf_path",
        "model.checkpoint",
    ),
    "generate": ("prompts", "checkpoint", "base", "image_root"),
    "evaluate": ("prompts", "answers", "steering", "text_before", "image_root", "judge.api_key_file"),
}
_WRITTEN: dict[str, tuple[str, ...]] = {"train": ("exp_manager.exp_dir",), "rounds": ()}
_OUT = ("out",)


def find_faults(jobs: Sequence[Job], settings: LaunchSettings) -> list[str]:
    """Return what is wrong with a launch on this machine, in words with a remedy; none is an empty list."""
    cluster = settings.cluster
    faults = [*_folders(settings), *_world(jobs, settings), *_start(jobs), *_credentials(jobs, settings)]
    if isinstance(cluster, SlurmCluster) and shutil.which("sbatch") is None:
        faults.append("sbatch is not on PATH: start this on a login node of the cluster, or take cluster=interactive.")
    if isinstance(cluster, KubernetesCluster):
        return [*faults, *_kubernetes(jobs, settings, cluster)]
    return [*faults, *_files(jobs, settings)]


def warn_of_missing_mounts(settings: LaunchSettings) -> None:
    """Name mounted folders that are not on this machine: login nodes do not always have what compute nodes have."""
    for mount in settings.mounts():
        if not mount.source.exists():
            logger.warning("container_mounts: %s is not on this machine; compute nodes need it", mount.source)
    if _image_is_missing(settings):
        logger.warning("container: %s is not on this machine; compute nodes need it", settings.container)


def _image_is_missing(settings: LaunchSettings) -> bool:
    return (settings.container or "").startswith("/") and not Path(settings.container or "").exists()


def _folders(settings: LaunchSettings) -> Iterator[str]:
    folders = {"base_results_dir": settings.base_results_dir, "run.results_dir": settings.run.results_dir}
    folders |= {"launcher_scripts_path": settings.launcher_scripts_path}
    folders |= {"data_dir": settings.data_dir} if settings.data_dir else {}
    for key, folder in folders.items():
        if not folder.is_absolute():
            yield f"{key}={folder} is relative; jobs start elsewhere. Give the absolute path: {folder.absolute()}"
    on_kubernetes = isinstance(settings.cluster, KubernetesCluster)
    if not on_kubernetes and _image_is_missing(settings) and Path(settings.container or "").parent.is_dir():
        yield f"container={settings.container} is not there, its folder is. Correct it, or make it (containers/README.md)."
    code = settings.launcher_scripts_path
    if settings.container is None and not on_kubernetes and not code.is_dir():
        yield f"launcher_scripts_path={code} is no folder; give the checkout that the nodes see."
    local = getattr(settings.cluster, "manifest_dir", settings.run.results_dir)
    if local.is_absolute() and not can_write(local):
        key = "cluster.manifest_dir" if on_kubernetes else "base_results_dir"
        yield f"{local} cannot be written to. Set {key} to a folder of yours."


def _world(jobs: Sequence[Job], settings: LaunchSettings) -> Iterator[str]:
    ranked = next((job for job in jobs if job.ranked), None)
    if ranked is None:
        return
    nodes, devices, cluster = ranked.nodes, ranked.processes_per_node, settings.cluster
    what = f"experiment {settings.run.experiment}" if settings.run.experiment else "trainer"
    if isinstance(cluster, InteractiveCluster):
        if nodes > 1:
            yield f"{what} wants {nodes} nodes; cluster=interactive is one. Take another, or train.trainer.num_nodes=1."
    elif cluster.gpus_per_node and cluster.gpus_per_node != devices:
        yield (
            f"{what} wants {nodes} x {devices} = {nodes * devices} ranks, the cluster gives {nodes} nodes x "
            f"{cluster.gpus_per_node} GPUs. Take another experiment, or set cluster.gpus_per_node={devices} (null where "
            f"Slurm manages no GPUs) or train.trainer.devices={cluster.gpus_per_node}."
        )


def _start(jobs: Sequence[Job]) -> Iterator[str]:
    for job in jobs:
        if job.stage == "train" and not (job.composed.get("model.hf_path") or job.composed.get("model.checkpoint")):
            yield "stage train: no model to start from. Give train.model.hf_path=FOLDER, or train.model.checkpoint=FOLDER."


def _credentials(jobs: Sequence[Job], settings: LaunchSettings) -> Iterator[str]:
    if isinstance(settings.cluster, KubernetesCluster):
        return
    for job in jobs:
        names = judge_variables(job) if asks_judge(job) else ()
        if names and not any(os.environ.get(name, "").strip() for name in names):
            judge = job.composed.choices["judge"]
            yield (
                f"stage {job.stage}: judge={judge} needs a key, and {' or '.join(names)} is not in the environment. "
                f"export {names[0]}=..., or {job.stage}.overrides=[judge.api_key_file=FILE]"
            )
        if job.stage == "train" and job.composed.get("exp_manager.create_wandb_logger") and not _can_log_in(settings):
            yield (
                "stage train: exp_manager.create_wandb_logger=true needs WANDB_API_KEY in the environment, or "
                "wandb_api_key_file=FILE; WANDB_MODE=offline needs neither."
            )


def asks_judge(job: Job) -> bool:
    """Whether a stage asks a judge: label, and evaluate where one of its tasks does."""
    return job.stage == "label" or (job.stage == "evaluate" and asks_judge_of(job.composed.config))


def judge_variables(job: Job) -> tuple[str, ...]:
    """Return the environment variables, any of which may hold the key of the judge; none if it needs no key."""
    judge = job.composed.get("judge")
    return () if judge is None or judge.get("api_key_file") else judge_key_variables(judge)


def _can_log_in(settings: LaunchSettings) -> bool:
    return bool(settings.wandb_api_key_file or wandb_login({**os.environ, **settings.env_vars}))


def _kubernetes(jobs: Sequence[Job], settings: LaunchSettings, cluster: KubernetesCluster) -> Iterator[str]:
    if settings.container is None:
        yield "cluster=k8s needs container=IMAGE."
    points = [source.get("mountPath") for source in cluster.volumes.values()]
    if None in points:
        yield "cluster.volumes: each volume needs a mountPath beside its source."
    elif not any(settings.base_results_dir.is_relative_to(str(point)) for point in points):
        yield f"base_results_dir={settings.base_results_dir} lies on none of cluster.volumes; it would vanish with the pod."
    asking = [job.stage for job in jobs if asks_judge(job) and judge_variables(job)]
    if asking and not cluster.env_secret:
        yield f"stage {asking[0]} needs its judge's key: set cluster.env_secret to a Kubernetes secret that holds it."


def _files(jobs: Sequence[Job], settings: LaunchSettings) -> Iterator[str]:
    """Inputs that no stage before makes must be there, outputs must be absolute, and the container must see both."""
    made: set[Path] = set()
    for job in jobs:
        for key in _READ.get(job.stage, ()):
            for value in _texts(job.composed.get(key)):
                yield from _read(job, key, value, made, settings)
        # Those of models whose answers are evaluated are the evaluation's own.
        for key, value in task_files(job.composed.get("tasks")) if not job.writes else ():
            yield from _read(job, key, value, made, settings)
        for key in _WRITTEN.get(job.stage, _OUT):
            path = Path(str(job.composed.get(key)))
            made.add(path)
            yield from _absolute(job, key, path)
            yield from _covered(job, key, path, settings)
        made.update(job.writes)
        if job.done_file is not None:
            made.add(job.done_file.parent)


def _texts(value: Any) -> list[str]:
    """One path, or those in a list or mapping."""
    if isinstance(value, DictConfig | ListConfig):
        items = value.values() if isinstance(value, DictConfig) else value
        return [text for item in items for text in _texts(item)]
    return [value] if isinstance(value, str) and value else []


def _read(job: Job, key: str, value: str, made: set[Path], settings: LaunchSettings) -> Iterator[str]:
    path = Path(value)
    if not path.is_absolute():
        is_data_set_name = key in ("data.train", "data.validation") and not path.exists()
        if not is_data_set_name and not (settings.launcher_scripts_path / path).exists():
            yield from _absolute(job, key, path)
        return
    if path in made:
        return
    covered = list(_covered(job, key, path, settings))
    yield from covered
    here = outside(path, settings.mounts()) if settings.container else path
    if not covered and here is not None and not here.exists():
        yield f"stage {job.stage}: {key}={path} is not there, and no stage before makes it. Correct {job.stage}.{key}."


def _absolute(job: Job, key: str, path: Path) -> Iterator[str]:
    if not path.is_absolute():
        yield f"stage {job.stage}: {key}={path} is relative; jobs start elsewhere. Give {job.stage}.{key}={path.absolute()}"


def _covered(job: Job, key: str, path: Path, settings: LaunchSettings) -> Iterator[str]:
    if settings.container and path.is_absolute() and outside(path, settings.mounts()) is None:
        yield (
            f"stage {job.stage}: {key}={path} is in none of the container's mounts. Add its folder: "
            f"'container_mounts=[{path.parent}]'"
        )
