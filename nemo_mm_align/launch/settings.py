"""Typed settings of the launcher; what each means stands in ``conf/launch.yaml`` and ``conf/cluster/*.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, field_validator

from nemo_mm_align.capacity.gpus import GPUS, REFERENCE_GPU
from nemo_mm_align.capacity.job import USUAL_ANSWER_TOKENS, USUAL_PROMPT_TOKENS
from nemo_mm_align.cli.configuration_help import Words
from nemo_mm_align.core.configuration import STRICT, Count, Natural, NotNegative, StrictModel
from nemo_mm_align.launch.kubernetes_settings import KubernetesCluster
from nemo_mm_align.launch.mounts import Mount, read_mount
from nemo_mm_align.workflow.rounds import Reason
from nemo_mm_align.workflow.stages import STAGES


def register_open_nodes() -> None:
    """Tell Hydra which parts of the launcher's configuration take any key; others of unknown name are errors.

    The settings of the stages are checked against their own configurations, environment variables and much of
    Kubernetes have names of the site's choosing.
    """
    OmegaConf.register_new_resolver("file_name", _file_name, replace=True)
    store = ConfigStore.instance()
    store.store(name="open_stages", node={name: _open() for name in (*STAGES, "env_vars")})
    named_by_the_site = ("volumes", "node_selector", "cpu_node_selector", "labels", "annotations")
    resources = {name: {"requests": _open(), "limits": _open()} for name in ("resources", "cpu_resources")}
    node = {name: _open() for name in named_by_the_site} | {"ib_interfaces": {"resources": _open()}} | resources
    store.store(group="cluster", name="open_k8s", node=node)


def _file_name(name: str | None) -> str | None:
    """An experiment of a folder, ``paper/NAME``, as the name of a run, which names files."""
    return None if name is None else name.replace("/", "_")


def _open() -> DictConfig:
    return OmegaConf.create({}, flags={"struct": False})


class RunSettings(StrictModel):
    """Experiment, name, folder, time limit and dependency of a run's jobs."""

    experiment: str | None
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    results_dir: Path
    time_limit: int | str
    dependency: str | None = None


class SlurmCluster(StrictModel):
    """``conf/cluster/bcm.yaml``; other keys are handed to sbatch as they are."""

    model_config = {**STRICT, "extra": "allow"}

    type: Literal["bcm"]
    partition: str | None = None
    cpu_partition: str | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    exclusive: bool = False
    gpus_per_node: Count | None = None
    gpus_per_task: Count | None = None
    gres: str | None = None
    cpus_per_task: Count | None = None
    mem: str | int | None = None
    job_name_prefix: str = ""
    srun_args: list[str] = []
    process_launcher: Literal["srun", "torchrun"] = "srun"
    mpi: str | None = "none"
    container_env: list[str] = []
    container_workdir: Path | None = None
    signal_grace_s: Count = 300
    max_requeues: Natural = 5
    max_restarts: Natural = 0

    @field_validator("srun_args", "container_env", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return [] if value is None else value


class InteractiveCluster(StrictModel):
    """``conf/cluster/interactive.yaml``: torchrun on this machine."""

    type: Literal["interactive"]
    job_name_prefix: str = ""


Cluster = Annotated[SlurmCluster | InteractiveCluster | KubernetesCluster, Field(discriminator="type")]


class CostSettings(StrictModel):
    """What a dry run reckons costs with; what each means stands in ``conf/launch.yaml``."""

    gpu: Literal[tuple(GPUS)] | None = REFERENCE_GPU  # type: ignore[valid-type]
    price_per_gpu_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    currency: str = "USD"
    start_minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0
    expected_prompts: Count | None = None
    expected_questions: Count | None = None
    expected_examples: Count | None = None
    prompt_tokens: Count = USUAL_PROMPT_TOKENS
    answer_tokens: Count = USUAL_ANSWER_TOKENS
    images_per_prompt: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0


class RoundSettings(StrictModel):
    """Rounds of the stages up to the training; what each means stands in ``conf/launch.yaml``."""

    count: Annotated[int, Field(ge=1, le=99)] | None = None
    prompts: Literal["same", "shares"] | list[Path] = "same"
    train_from: Literal["previous", "first"] = "previous"
    stop_on: list[Reason] = []
    least_gain: NotNegative | None = None

    @property
    def stops(self) -> bool:
        """Whether a round can be the last one before its time."""
        return bool(self.stop_on) or self.least_gain is not None


class LaunchSettings(StrictModel):
    """``conf/launch.yaml``, without the settings of the stages."""

    stages: list[str]
    run: RunSettings
    cluster: Cluster
    cluster_type: str
    launcher_scripts_path: Path
    python: str
    data_dir: Path | None
    base_results_dir: Path
    container: str | None
    container_mounts: Annotated[list[Mount], Words('list, each "SOURCE:TARGET[:OPTIONS]"')] = []
    env_vars: dict[str, str] = {}
    wandb_api_key_file: Path | None
    preflight: bool
    dry_run: bool
    costs: CostSettings = CostSettings()
    rounds: RoundSettings = RoundSettings()

    @field_validator("container_mounts", mode="before")
    @classmethod
    def _parse_mounts(cls, value: Any) -> Any:
        return [read_mount(item) for item in value or []] if value is None or isinstance(value, list) else value

    @field_validator("rounds", mode="before")
    @classmethod
    def _null_is_once(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("env_vars", mode="before")
    @classmethod
    def _null_is_unset(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, Mapping):
            return value  # is refused by its type
        return {str(name): str(given) for name, given in (value or {}).items() if given is not None}

    def mounts(self) -> list[Mount]:
        """Everything that the container sees: code (if it lies here), data and results, then the user's mounts."""
        if self.container is None:
            return []
        code = self.launcher_scripts_path if self.launcher_scripts_path.is_dir() else None
        own = [Mount(path, path) for path in (code, self.data_dir, self.base_results_dir) if path is not None]
        found = {mount.target: mount for mount in [*own, *self.container_mounts]}
        return list(found.values())
