"""Launches that tests render: the configuration as the command line makes it, and the scripts."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from nemo_mm_align.launch.compose import CONF
from nemo_mm_align.launch.jobs import Job, make_jobs
from nemo_mm_align.launch.launch import read_settings, render
from nemo_mm_align.launch.rounds import jobs_of_launch
from nemo_mm_align.launch.settings import LaunchSettings, register_open_nodes

ALL = ("sample", "label", "build", "train", "generate", "evaluate")

LOOP = ("sample", "label", "build", "train", "evaluate")

TRAINING = (
    'train.overrides=["recipe=dpo","model=llava15_13b"]', "train.name=dpo", "train.trainer.num_nodes=2",
    "train.trainer.devices=8", "train.model.tensor_model_parallel_size=2", "train.model.hf_path=/shared/llava",
)  # fmt: skip
DATA = ("sample.prompts=/shared/prompts.jsonl", "generate.prompts=/shared/heldout.jsonl", "run.name=first")
PLACES = ("base_results_dir=/shared/results", "launcher_scripts_path=/shared/nemo_mm_align")
CONTAINER = ("container=/shared/nemo_mm_align.sqsh", "container_mounts=[/shared,/lustre/raw:/raw:ro]")
VOLUME = "cluster.volumes={shared: {mountPath: /shared, persistentVolumeClaim: {claimName: shared}}}"
KUBERNETES = ("cluster=k8s", "container=nvcr.io/nvidia/nemo:26.02", VOLUME, "cluster.env_secret=keys")
INTERACTIVE = ("cluster=interactive", "train.trainer.num_nodes=1")

MATRIX: dict[str, tuple[str, ...]] = {
    "srun": ("cluster.partition=batch", "cluster.account=vision", "preflight=false"),
    "srun_container": ("cluster.partition=batch", *CONTAINER, "env_vars.NCCL_DEBUG=WARN"),
    "torchrun": ("cluster.process_launcher=torchrun", "cluster.max_restarts=2", "cluster.cpu_partition=cpu"),
    "torchrun_container": ("cluster.process_launcher=torchrun", *CONTAINER, "preflight=false"),
    "interactive": INTERACTIVE,
    "kubernetes": KUBERNETES,
}


def launch_config(*overrides: str, stages: Sequence[str] = ALL) -> DictConfig:
    """Compose the launcher's configuration as scripts/launch.py does."""
    register_open_nodes()
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("launch", [f"stages=[{','.join(stages)}]", *overrides])


def jobs_of(config: DictConfig) -> tuple[LaunchSettings, dict[str, Job]]:
    """Return settings and jobs by stage."""
    settings = read_settings(config)
    return settings, {job.stage: job for job in make_jobs(settings, config)}


def rounds_of(*overrides: str) -> tuple[LaunchSettings, dict[str, Job]]:
    """Return settings and jobs of a launch in rounds by name, without the run's, in order."""
    config = launch_config("chain=online", *TRAINING, *DATA, *PLACES, *overrides, stages=LOOP)
    settings = read_settings(config)
    return settings, {job.name.removeprefix("first_"): job for job in jobs_of_launch(settings, config)}


def scripts(*overrides: str, stages: Sequence[str] = ALL) -> dict[str, str]:
    """Return the text of each stage's script or manifest."""
    settings, jobs = jobs_of(launch_config(*TRAINING, *DATA, *PLACES, *overrides, stages=stages))
    return {stage: render(job, settings).text for stage, job in jobs.items()}
