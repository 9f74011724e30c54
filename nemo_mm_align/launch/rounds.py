"""A launch in rounds: one chain becomes several, each with the model of the one before, and what stands between them.

    share of the prompts                                        rounds.prompts=shares
    round k: sample, label or annotate, [review of samples], build, [gather], train, review, [convert]
    generate, evaluate                                          once, of the last good round's model

A round's jobs are those of `make_jobs` with its own folder, seeds and start. Which rounds take place is found out while they
run: a review leaves a file where the rounds end, and later jobs that find it do nothing (`InRound.stops`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_mm_align.core.run_files import DIVERGED_FILE
from nemo_mm_align.evaluation.results import BASE
from nemo_mm_align.launch.compose import Composed, compose_stage
from nemo_mm_align.launch.jobs import InRound, Job, Training, make_jobs, stage_list, training_of
from nemo_mm_align.launch.round_checks import check_rounds, check_wiring
from nemo_mm_align.launch.settings import LaunchSettings
from nemo_mm_align.workflow.overrides import overrides_of
from nemo_mm_align.workflow.round_files import MODEL_LINK, RoundFiles
from nemo_mm_align.workflow.round_record import DIVERGED
from nemo_mm_align.workflow.stages import REPEATED

_SEEDED = ("sample", "train")


def jobs_of_launch(settings: LaunchSettings, config: DictConfig) -> list[Job]:
    """Return the jobs of a launch in order, in rounds where it has some.

    Raises:
        UserError: as `make_jobs`; rounds of stages or of a recipe that make none.
    """
    return make_jobs(settings, config) if settings.rounds.count is None else list(Rounds(settings, config).jobs())


class Rounds:
    """The jobs of a launch in rounds.

    Args:
        settings: of the launch.
        config: all of it.
    """

    def __init__(self, settings: LaunchSettings, config: DictConfig) -> None:
        self.settings, self.config, self.rounds = settings, config, settings.rounds
        self.count = self.rounds.count or 1
        self.results = settings.run.results_dir
        stages = stage_list(settings, config)
        self.repeated = [stage for stage in stages if stage in REPEATED]
        self.once = [stage for stage in stages if stage not in REPEATED]
        check_rounds(stages, settings, config, self.training.wiring().recipe if "train" in stages else None)

    @cached_property
    def training(self) -> Training:
        """The training of the first round."""
        return training_of(self.settings, self.config)

    def files(self, number: int) -> RoundFiles:
        """Where the files of a round lie."""
        return RoundFiles(self.results, number)

    def jobs(self) -> Iterator[Job]:
        """Yield all jobs in order."""
        if self.rounds.prompts == "shares":
            yield self._share()
        chains: list[dict[str, Job]] = []
        for number in range(1, self.count + 1):
            chains.append(self._chain(number, chains))
            yield from self._round(number, chains)
        yield from self._after(chains)

    # --- one round

    def _chain(self, number: int, before: list[dict[str, Job]]) -> dict[str, Job]:
        """Return the stages of a round by name, as they would be launched by themselves."""
        config, files = deepcopy(self.config), self.files(number)
        with open_dict(config):
            config.run.results_dir = str(files.folder)
            if self.rounds.prompts != "same":
                config.sample.prompts = str(self._prompts(number))
            if before and self._gathers:
                config.train.data.train = str(files.gathered)
            for stage, values in self._words(number, before).items():
                _set(config[stage], values)
        run = self.settings.run.model_copy(update={"name": f"{self.settings.run.name}_round_{number}"})
        settings = self.settings.model_copy(update={"run": run, "stages": self.repeated})
        jobs = {job.stage: job for job in make_jobs(settings, config)}
        check_wiring(jobs, files, self._gathers and bool(before))
        place = InRound(
            number,
            stops=self._stops(number),
            prompts=self._counted(number),
            data_of=number if self._gathers else 1,
        )
        return {stage: replace(job, rounds=self._place(job, place, files)) for stage, job in jobs.items()}

    def _place(self, job: Job, place: InRound, files: RoundFiles) -> InRound:
        """Return the place of one of the round's stages: some also end where the round's samples do."""
        ends_by_samples = job.stage in ("build", "train") and self._looks_at_samples(files.number)
        stops = (*place.stops, *((files.stopped_by_samples,) if ends_by_samples else ()))
        goes_by_it = job.stage == "train" and DIVERGED in self.rounds.stop_on and job.done_file is not None
        diverged = job.done_file.parent / DIVERGED_FILE if goes_by_it and job.done_file else None
        return replace(place, stops=stops, diverged_file=diverged)

    def _words(self, number: int, before: list[dict[str, Job]]) -> dict[str, dict[str, Any]]:
        """Return what distinguishes a round after the first one: its seeds, who answers, and where training starts."""
        if not before:
            return {}
        first, last = before[0], before[-1]
        words: dict[str, dict[str, Any]] = {
            stage: {"seed": int(first[stage].composed.get("seed")) + number - 1} for stage in _SEEDED
        }
        words["sample"]["checkpoint"] = str(self._model(number - 1, last))
        if self.rounds.train_from == "previous":
            key = "hf_path" if self._merges else "checkpoint"
            words["train"] |= {"model.hf_path": None, "model.checkpoint": None} | {
                f"model.{key}": words["sample"]["checkpoint"]
            }
        draws = first["sample"].composed.get("draw_from") is None and self._asks(last["train"])
        if draws:
            words["sample"]["draw_from"] = str(_rated(last).composed.get("out"))
        return words

    def _asks(self, train: Job) -> bool:
        """Whether the model of a round is asked for attributes, as its recipe teaches."""
        return self.training.wiring().recipe.samples.attributed and train.done_file is not None

    def _model(self, number: int, chain: Mapping[str, Job]) -> Path:
        """The model of a round, as the next one samples from it and, if it does, starts from it."""
        return self.files(number).merged if self._merges else _run(chain)

    def _prompts(self, number: int) -> Path:
        given = self.rounds.prompts
        return given[number - 1] if isinstance(given, list) else self.files(number).prompts

    def _counted(self, number: int) -> tuple[Path, int] | None:
        """The file that a round's prompts are a share of, for costs, and the number of shares."""
        if self.rounds.prompts == "shares":
            return Path(str(self.config.sample.prompts)), self.count
        return None if self.rounds.prompts == "same" else (self._prompts(number), 1)

    @property
    def _gathers(self) -> bool:
        return self.rounds.train_from == "first"

    @property
    def _merges(self) -> bool:
        """Whether adapters are merged before the next round starts from them: there can be none on top of others."""
        return not self._gathers and self.training.composed.get("model.lora") is not None

    def _looks_at_samples(self, number: int) -> bool:
        return self.rounds.least_gain is not None and number > 1

    def _stops(self, number: int) -> tuple[Path, ...]:
        """Files of the rounds before this one that end it."""
        found: list[Path] = []
        for files in map(self.files, range(1, number)):
            found += [files.stopped_by_samples] if self._looks_at_samples(files.number) else []
            found += [files.stopped_by_training] if self.rounds.stop_on else []
        return tuple(found)

    def _round(self, number: int, chains: list[dict[str, Job]]) -> Iterator[Job]:
        """Yield the jobs of a round: its stages, and what stands between them."""
        chain, later = chains[-1], self._stops(number + 1)
        for stage in self.repeated:
            if stage == "build" and self._looks_at_samples(number):
                yield self._review(number, chain, "review_samples", trained=False)
            if stage == "train" and self._gathers and number > 1:
                yield self._gather(number, chains)
            yield chain[stage]
        stops = (*self._stops(number), *((self.files(number).stopped_by_samples,) * self._looks_at_samples(number)))
        review = self._review(number, chain, "review", trained=True)
        yield replace(review, rounds=replace(review.rounds, stops=stops))
        if self._merges and number < self.count:
            yield self._merge(number, chain, later)

    # --- between the stages

    def _share(self) -> Job:
        root = self.config.sample.get("image_root")
        values = {"prompts": str(self.config.sample.prompts), "count": self.count, "image_root": root}
        shares = tuple(self.files(number).prompts for number in range(1, self.count + 1))
        return self._step("share_prompts", InRound(step="share_prompts"), {"step": "share", "share": values}, shares)

    def _gather(self, number: int, chains: list[dict[str, Job]]) -> Job:
        out = self.files(number).gathered
        values = {"sets": [str(chain["build"].composed.get("out")) for chain in chains], "out": str(out)}
        place = replace(chains[-1]["build"].rounds, step="gather")
        return self._step(f"round_{number}_gather", place, {"step": "gather", "gather": values}, (out,))

    def _review(self, number: int, chain: Mapping[str, Job], name: str, trained: bool) -> Job:
        build = chain["build"]
        values: dict[str, Any] = {
            "number": number,
            "sampled_from": chain["sample"].composed.get("checkpoint"),
            "annotations": build.composed.get("annotations"),
            "least_gain": self.rounds.least_gain,
        }
        if trained:
            values |= {"training_set": build.composed.get("out"), "run": str(_run(chain))}
            values["stop_on"] = list(self.rounds.stop_on)
        schema = {"attribute_schema": build.composed.choices["attribute_schema"]}
        place = InRound(number, name, self._stops(number))
        words = {**schema, "step": "review", "review": values}
        return self._step(f"round_{number}_{name}", place, words, (self.results / MODEL_LINK,))

    def _merge(self, number: int, chain: Mapping[str, Job], stops: tuple[Path, ...]) -> Job:
        source, out = _run(chain), self.files(number).merged
        words = {"direction": "export", "source": str(source), "out": str(out), "adapters": "merged"}
        done = chain["train"].done_file
        made = (out / "config.json", done) if done else None
        return self._job("convert", f"round_{number}_merge", InRound(number, "merge", stops, made), words, ())

    def _step(self, name: str, place: InRound, words: Mapping[str, Any], writes: tuple[Path, ...]) -> Job:
        return self._job("rounds", name, place, {"results": str(self.results), **words}, writes)

    def _job(self, stage: str, name: str, place: InRound, words: Mapping[str, Any], writes: tuple[Path, ...]) -> Job:
        overrides = tuple(overrides_of(words))
        composed: Composed = compose_stage(stage, overrides)
        limit = self.settings.run.time_limit
        named = f"{self.settings.run.name}_{name}"
        return Job(stage, named, overrides, composed, 1, 1, limit, (), None, writes, place)

    # --- after the rounds

    def _after(self, chains: list[dict[str, Job]]) -> Iterator[Job]:
        """Yield the stages that take place once: the model is the one that the last review's link leads to."""
        if not self.once:
            return
        config = deepcopy(self.config)
        where = {"exp_manager.exp_dir": str(self.results), "exp_manager.name": MODEL_LINK}
        with open_dict(config):
            _set(config.train, where)
        if self._compares_base:
            start = self.training.wiring().start
            yield self._base_answers(config, start)
            named = self.training.wiring().recipe.name
            with open_dict(config):
                config.evaluate.answers = {BASE: str(self._answers_of_base), named: str(config.generate.out)}
        settings = self.settings.model_copy(update={"stages": self.once})
        yield from make_jobs(settings, config, trained=True)

    @property
    def _compares_base(self) -> bool:
        """Whether the first model answers as well: where an evaluation has no answers or tasks of its own to compare."""
        own = "answers" in self.config.evaluate or self.config.evaluate.get("tasks")
        named = self.config.generate.get("checkpoint") is not None
        return {"generate", "evaluate"} <= {*self.once} and not own and not named

    @property
    def _answers_of_base(self) -> Path:
        out = Path(str(self.config.generate.out))
        return out.with_name(f"{out.stem}_{BASE}{out.suffix}")

    def _base_answers(self, config: DictConfig, start: Mapping[str, Any]) -> Job:
        changed = deepcopy(config)
        with open_dict(changed):
            _set(changed.generate, {"checkpoint": start.get("checkpoint"), "out": str(self._answers_of_base)})
            template = {key: value for key, value in start.items() if key != "checkpoint"}
            changed.generate.overrides = [*overrides_of(template), *changed.generate.overrides]
        (job,) = make_jobs(self.settings.model_copy(update={"stages": ["generate"]}), changed, trained=True)
        return replace(job, name=f"{job.name}_{BASE}")


def _set(stage: DictConfig, values: Mapping[str, Any]) -> None:
    """Set values of a stage by dotted key, also where its further words say something else."""
    for key, value in values.items():
        OmegaConf.update(stage, key, value, force_add=True)
    kept = [word for word in stage.get("overrides") or [] if str(word).partition("=")[0].lstrip("+") not in values]
    stage.overrides = kept


def _run(chain: Mapping[str, Job]) -> Path:
    """The folder of a round's training."""
    done = chain["train"].done_file
    assert done is not None, "a training marks its end"
    return done.parent


def _rated(chain: Mapping[str, Job]) -> Job:
    return chain["label"] if "label" in chain else chain["annotate"]
