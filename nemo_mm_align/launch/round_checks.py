"""What makes no rounds, found before anything is submitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_settings import SFT
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.settings import LaunchSettings
from nemo_mm_align.recipes.spec import RecipeSpec
from nemo_mm_align.workflow.round_files import RoundFiles
from nemo_mm_align.workflow.stages import REPEATED

_HANDED_ON = (
    ("sample", ("label", "annotate"), "candidates"),
    ("label", ("build",), "annotations"),
    ("annotate", ("build",), "annotations"),
    ("build", ("train",), "data.train"),
)
"""Who makes a file, who reads it, and by which key."""


def check_rounds(
    stages: Sequence[str], settings: LaunchSettings, config: DictConfig, recipe: RecipeSpec | None
) -> None:
    """Raise `UserError` for stages, a recipe or prompts that make no rounds; `recipe` is None without a training."""
    _check_stages(stages)
    assert recipe is not None, "train is among the stages"
    if recipe.rates:
        raise UserError(
            f"rounds: recipe={recipe.name} makes a model that rates answers and gives none, so that no round can sample from it. "
            "Leave rounds.count out."
        )
    method = _method(config) or recipe.build_method
    if method == SFT:
        raise UserError(
            f"rounds: method={method} learns from the judge's own answers, whatever was sampled: every round would learn the "
            "same. Leave rounds.count out, or take a recipe or build.method that learns from the model's answers."
        )
    if settings.rounds.train_from == "first" and config.build.get("format", "records") != "records":
        raise UserError(
            "rounds.train_from=first puts the rounds' training sets together: leave build.format at records."
        )
    _check_prompts(settings, config)


def _method(config: DictConfig) -> str | None:
    """The method of build.py, where the launch names one."""
    given: Any = config.build.get("method")
    if given is None or isinstance(given, str):
        return given
    return str(given.get("name")) if given.get("name") else None


def _check_stages(stages: Sequence[str]) -> None:
    needed = [name for name in ("sample", "build", "train") if name not in stages]
    needed += [] if {"label", "annotate"} & {*stages} else ["label or annotate"]
    if needed:
        raise UserError(
            f"rounds: stages={list(stages)} make no round, {', '.join(needed)} is missing: each round samples from the model of "
            "the one before, has its answers judged and trains on them. Add it to stages, or leave rounds.count out."
        )
    places = [stages.index(name) for name in stages if name in REPEATED]
    if places != list(range(len(places))):
        raise UserError(f"rounds: stages={list(stages)}: generate and evaluate come after train, once for all rounds.")


def _check_prompts(settings: LaunchSettings, config: DictConfig) -> None:
    given, count = settings.rounds.prompts, settings.rounds.count or 1
    if isinstance(given, list):
        if len(given) != count:
            raise UserError(
                f"rounds.prompts names {len(given)} files for rounds.count={count} rounds; give one for each."
            )
        return
    path = Path(str(config.sample.get("prompts") or ""))
    if given != "shares" or not path.is_file():
        return
    with path.open("rb") as file:
        found = sum(1 for line in file if line.strip())
    if found < count:
        raise UserError(
            f"rounds.prompts=shares: {path} has {found} prompts for rounds.count={count} rounds. Give more prompts, or "
            "rounds.prompts=same."
        )


def check_wiring(jobs: Mapping[str, Job], files: RoundFiles, gathers: bool) -> None:
    """Raise `UserError` where a stage of a round reads another file than its round makes, or writes outside its folder.

    Args:
        jobs: the round's, by stage.
        files: of the round.
        gathers: whether the training reads the sets of several rounds.
    """
    for maker, readers, key in _HANDED_ON:
        for reader in readers:
            if maker not in jobs or reader not in jobs or (reader == "train" and gathers):
                continue
            made, read = jobs[maker].composed.get("out"), jobs[reader].composed.get(key)
            if str(made) != str(read):
                raise UserError(
                    f"rounds: {reader}.{key}={read} is not what {maker} makes in round {files.number} ({made}): each round "
                    f"works on its own. Leave {reader}.{key} out."
                )
    for reader in ("label", "annotate"):
        if reader in jobs and jobs[reader].composed.get("prompts") != jobs["sample"].composed.get("prompts"):
            raise UserError(f"rounds: {reader}.prompts must be those that were sampled. Leave {reader}.prompts out.")
    for stage, job in jobs.items():
        out = job.done_file.parent if job.done_file else Path(str(job.composed.get("out")))
        if not out.is_relative_to(files.folder):
            key = "train.exp_manager.exp_dir" if stage == "train" else f"{stage}.out"
            raise UserError(
                f"rounds: {key} is {out} in every round, each of which would overwrite the one before. Leave it out: a round's "
                f"files lie in {files.folder}."
            )
