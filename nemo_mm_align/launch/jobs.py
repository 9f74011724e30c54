"""From the launcher's configuration to jobs: each stage's settings, where its files come from, its ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from nemo_mm_align.core.configuration import check_section, read_known
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.core.run_files import DONE_FILE
from nemo_mm_align.launch.compose import Composed, compose_stage, missing_keys, whole_values
from nemo_mm_align.launch.settings import InteractiveCluster, LaunchSettings
from nemo_mm_align.launch.task_answers import Asked, task_answers
from nemo_mm_align.launch.types import check_types
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.training.sections import ManagerSettings, TrainerSettings
from nemo_mm_align.workflow.overrides import overrides_of
from nemo_mm_align.workflow.stages import RUN, STAGES
from nemo_mm_align.workflow.wiring import Wiring

_LAYOUT_KEYS = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage",
)


@dataclass(frozen=True)
class InRound:
    """What is special about a job of a launch in rounds.

    Args:
        number: of the round; 0: before or after all of them.
        step: what the job is, where it is no stage.
        stops: files any of which, where it is there, says why this job has nothing to do.
        made_of: what the job makes, as one file, and what it makes it of: it has nothing to do while the former is the newer one.
        diverged_file: exists when the training has ended by that, which is then an end like any other.
        prompts: the file that the round's prompts are a share of, and of how many; None where they are a file's whole.
        data_of: of how many rounds the training set has the data.
    """

    number: int = 0
    step: str = ""
    stops: tuple[Path, ...] = ()
    made_of: tuple[Path, Path] | None = None
    diverged_file: Path | None = None
    prompts: tuple[Path, int] | None = None
    data_of: int = 1


@dataclass(frozen=True)
class Job:
    """One stage as a job.

    Args:
        stage: which.
        name: of run and stage; the job's files begin with it.
        overrides: arguments of the stage's script.
        composed: the configuration that the script will make of them.
        nodes, processes_per_node: its ranks; 1 and 1 for stages without ranks.
        time_limit: as Slurm writes it.
        training_overrides: the training's arguments, for the checks before the job; none if the launch has no training.
        done_file: exists when the stage is finished; ``None``: it is when its script ends with exit code 0.
        writes: further files and folders that it makes, beside its ``out``.
        rounds: its place in a launch in rounds.
    """

    stage: str
    name: str
    overrides: tuple[str, ...]
    composed: Composed
    nodes: int
    processes_per_node: int
    time_limit: int | str
    training_overrides: tuple[str, ...]
    done_file: Path | None
    writes: tuple[Path, ...] = ()
    rounds: InRound = InRound()

    @property
    def ranked(self) -> bool:
        """Whether this is a stage of many ranks, on GPUs where there are any."""
        return RUN[self.stage].ranked

    @property
    def script(self) -> str:
        """The stage's script, seen from the repository."""
        return RUN[self.stage].script

    @property
    def checked(self) -> bool:
        """Whether machine, paths and layout are looked at before it; not before what stands between the stages of rounds."""
        return self.stage in STAGES

    @property
    def title(self) -> str:
        """The stage, and of which round."""
        name = self.rounds.step or self.stage
        return f"{name} of round {self.rounds.number}" if self.rounds.number else name

    @property
    def settings_file(self) -> str:
        """Name of the file with its settings, beside its script."""
        return f"{self.name}_hydra.yaml"

    @property
    def tensor_model_parallel_size(self) -> int:
        """Ranks that share one layer."""
        prefix = "model." if self.stage == "train" else ""
        return int(self.composed.get(f"{prefix}tensor_model_parallel_size") or 1)


@dataclass(frozen=True)
class Training:
    """What other stages take from the training's configuration."""

    overrides: tuple[str, ...]
    composed: Composed
    nodes: int
    processes_per_node: int

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return str(self.composed.get("recipe.name"))

    @property
    def folder(self) -> Path:
        """The folder of the training run: checkpoints, metrics, DONE."""
        manager = read_known(ManagerSettings, self.composed.plain("exp_manager"), "train.exp_manager")
        return manager.folder

    def _layout(self) -> dict[str, Any]:
        """The layout as `sample` and `generate` name it; what is 1 or null there by default is left out."""
        values = {key: self.composed.get(f"model.{key}") for key in _LAYOUT_KEYS}
        return {key: value for key, value in values.items() if value not in (None, 1)}

    def wiring(self) -> Wiring:
        """Return what the stages around it take from it."""
        schema = self.composed.choices["attribute_schema"]
        logs = bool(self.composed.get("exp_manager.create_wandb_logger"))
        return Wiring(find_recipe(self.recipe), self._start(), self.folder, self._layout(), schema, logs)

    def _start(self) -> dict[str, Any]:
        """The model that training starts from, as `sample` names it."""
        folder = self.composed.get("model.hf_path")
        if folder:
            return {"checkpoint": folder, **self._template()}
        checkpoint = self.composed.get("model.checkpoint")
        return {"checkpoint": checkpoint} if checkpoint else {}

    def _template(self) -> dict[str, Any]:
        """The chat template's file, and what the training has changed in it."""
        choice = self.composed.choices["template"]
        plain = OmegaConf.load(CONF / f"template/{choice}.yaml")
        changed = {key: value for key, value in self.composed.get("template").items() if plain.get(key) != value}
        return {"template": choice} | {f"template.{key}": value for key, value in changed.items()}


def stage_list(settings: LaunchSettings, config: DictConfig) -> list[str]:
    """Return the stages in order; `generate` comes before an `evaluate` that was given no answers."""
    stages = list(settings.stages)
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages or len(set(stages)) < len(stages):
        problem = f"unknown: {', '.join(unknown)}" if unknown else "none, or one twice"
        raise UserError(f"stages={stages}: {problem}. Choose from {', '.join(STAGES)}, each once.")
    if {"label", "annotate"} <= {*stages}:
        raise UserError(
            f"stages={stages}: label asks a judge and annotate an attribute model, for the same annotations. Take one of them."
        )
    if "evaluate" in stages and "generate" not in stages and "answers" not in config.evaluate:
        stages.insert(stages.index("evaluate"), "generate")
    return stages


def make_jobs(settings: LaunchSettings, config: DictConfig, trained: bool = False) -> list[Job]:
    """Return the jobs of a launch in order.

    Args:
        settings: of the launch.
        config: all of it.
        trained: whether the training takes place although it is none of the stages: jobs before these do that.

    Raises:
        UserError: a stage is unknown, lacks a value, or has one that its script does not know.
    """
    stages = stage_list(settings, config)
    answers = task_answers(config) if "evaluate" in stages else None
    config = answers.config if answers else config
    needs_training = any(STAGES[stage].ranked for stage in stages) or settings.run.experiment
    training = training_of(settings, config) if needs_training else None
    if training is not None and (trained or "train" in stages):
        _check_answers(stages, training, config)
    models = answers.models(training.wiring(), trained or "train" in stages) if answers and training else []
    return [job for stage in stages for job in _jobs_of(stage, settings, config, training, models)]


def _jobs_of(
    stage: str, settings: LaunchSettings, config: DictConfig, training: Training | None, models: Sequence[Asked]
) -> list[Job]:
    """Return a stage's job; of `generate` one for each of several models whose answers are evaluated."""
    if stage == "generate" and models:
        return [
            replace(
                _make_job(stage, settings, config, training, model.values),
                name=f"{settings.run.name}_{stage}_{model.name}",
                writes=tuple(map(Path, model.folders.values())),
            )
            for model in models
        ]
    if stage != "evaluate" or not models or training is None:
        return [_make_job(stage, settings, config, training)]
    folders = {name: folder for model in models for name, folder in model.folders.items()}
    values = {"answers": folders, **training.wiring().values(stage)}
    return [_make_job(stage, settings, config, training, values)]


def _check_answers(stages: Sequence[str], training: Training, config: DictConfig) -> None:
    """Raise `UserError` where a model that only rates answers is to give some."""
    if "generate" in stages and find_recipe(training.recipe).rates and config.generate.get("checkpoint") is None:
        raise UserError(
            f"stage generate: recipe={training.recipe} makes a model that rates answers and gives none. Leave generate and "
            "evaluate out of stages, or name a model that answers (generate.checkpoint=FOLDER)."
        )


def training_of(settings: LaunchSettings, config: DictConfig) -> Training:
    """Return what other stages take from the training; raise `UserError` where its settings are wrong."""
    overrides, _ = _stage_overrides("train", settings, config, None)
    composed = compose_stage("train", overrides)
    per_node = None if isinstance(settings.cluster, InteractiveCluster) else settings.cluster.gpus_per_node
    trainer = read_known(TrainerSettings, composed.plain("trainer"), "train.trainer")
    return Training(tuple(overrides), composed, trainer.num_nodes or 1, trainer.devices or per_node or 1)


def _make_job(
    stage: str,
    settings: LaunchSettings,
    config: DictConfig,
    training: Training | None,
    instead: Mapping[str, Any] | None = None,
) -> Job:
    """Return a stage as a job; `instead` takes the place of what it would take from the training."""
    overrides, time_limit = _stage_overrides(stage, settings, config, training, instead)
    composed = compose_stage(stage, overrides)
    missing = composed.missing()
    if missing:
        where = (
            f"{stage}.overrides=[{missing[0]}=...]" if missing[0] in composed.choices else f"{stage}.{missing[0]}=..."
        )
        raise UserError(f"stage {stage}: {', '.join(missing)} without a value. Give it on the command line: {where}")
    check_types(stage, composed.config)
    ranked = STAGES[stage].ranked and training is not None
    return Job(
        stage=stage,
        name=f"{settings.run.name}_{stage}",
        overrides=tuple(overrides),
        composed=composed,
        nodes=training.nodes if ranked and training else 1,
        processes_per_node=training.processes_per_node if ranked and training else 1,
        time_limit=time_limit or settings.run.time_limit,
        training_overrides=training.overrides if ranked and training else (),
        done_file=training.folder / DONE_FILE if STAGES[stage].marks_its_end and training else None,
    )


def _stage_overrides(
    stage: str,
    settings: LaunchSettings,
    config: DictConfig,
    training: Training | None,
    instead: Mapping[str, Any] | None = None,
) -> tuple[list[str], int | str | None]:
    """Return the arguments of a stage's script, and the stage's own time limit if it has one."""
    given = _resolved(stage, config)
    run, further = given.pop("run", None) or {}, given.pop("overrides", None) or []
    check_section(run, f"{stage}.run")
    if not isinstance(further, list):
        raise UserError(f"{stage}.overrides={further!r}: must be a list of KEY=VALUE words.")
    if set(run) - {"time_limit"}:
        raise UserError(f"{stage}.run: {', '.join(sorted(set(run) - {'time_limit'}))} unknown; it takes time_limit.")
    head = [f"experiment={settings.run.experiment}"] if stage == "train" and settings.run.experiment else []
    wired = _wired(stage, config, training) if instead is None else _told(stage, training, instead)
    values = _merge(wired, given)
    return [*head, *overrides_of(values, whole_values(stage)), *map(str, further)], run.get("time_limit")


def _resolved(stage: str, config: DictConfig) -> dict[str, Any]:
    check_section(OmegaConf.to_container(config).get(stage), stage)  # type: ignore[union-attr]
    missing = [f"{stage}.{key}" for key in missing_keys(OmegaConf.to_container(config[stage]))]
    try:
        values = {} if missing else OmegaConf.to_container(config[stage], resolve=True)
    except InterpolationToMissingValueError as error:
        missing = [str(error).splitlines()[0].rsplit(": ", 1)[-1]]  # "... Missing mandatory value: sample.prompts"
    if missing:
        raise UserError(f"stage {stage} needs {missing[0]}. Give it on the command line: {missing[0]}=...")
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _wired(stage: str, config: DictConfig, training: Training | None) -> dict[str, Any]:
    """Return what a stage takes from the training and the stages before it, where its own settings say nothing else."""
    if training is None:
        return {}
    wiring = training.wiring()
    given_answers = stage != "evaluate" or "answers" in config.evaluate
    return wiring.values(stage) | ({} if given_answers else wiring.answers(config.generate.out))


def _told(stage: str, training: Training | None, instead: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the training, if it has one of its own, and what was made for this job."""
    schema = training.wiring().values(stage) if training else {}
    return {key: value for key, value in schema.items() if key == "attribute_schema"} | dict(instead)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(dict(below)), OmegaConf.create(dict(above))))
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}
