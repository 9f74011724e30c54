"""What the stages of a launch will cost: gathered before anything is submitted, from their own configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nemo_mm_align.capacity.gpus import GPU, find_gpu
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.tasks.optional import is_rated, task_class
from nemo_mm_align.evaluation.tasks.sizes import TaskSize
from nemo_mm_align.launch import cost_gpu
from nemo_mm_align.launch.compose import Composed, compose_stage
from nemo_mm_align.launch.cost_inputs import Asked, asked_prompts, task_settings, task_size
from nemo_mm_align.launch.cost_judge import JudgeUse, Questions, judge_use, rated_questions, task_questions
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.settings import CostSettings, LaunchSettings
from nemo_mm_align.llm.running.spending import Tokens
from nemo_mm_align.recipes.registry import find_recipe, read_recipe
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import CandidateSet, read_records
from nemo_mm_align.workflow.stages import STAGES


@dataclass(frozen=True)
class StageCost:
    """One stage.

    Args:
        stage: which; of several jobs of a stage the end of their names says which.
        what: it does, in words.
        seconds: that it computes; 0 for a stage without GPUs, None where that is not known.
        gpus: that it holds meanwhile, and while it starts.
        most_hours: GPU-hours at most; None: there is no limit.
        source: how it is known how much there is to do, in words; "" where that needs none.
        unknown: why it is not known, with a remedy; "" where it is.
    """

    stage: str
    what: str = ""
    seconds: float | None = 0.0
    gpus: int = 0
    start_seconds: float = 0.0
    most_hours: float | None = 0.0
    judge: JudgeUse = field(default_factory=JudgeUse)
    source: str = ""
    unknown: str = ""

    @property
    def gpu_hours(self) -> float | None:
        """Expected, the start included."""
        return (
            None if self.seconds is None else (self.seconds + self.start_seconds * (self.gpus > 0)) * self.gpus / 3600
        )


def costs_of(settings: LaunchSettings, jobs: Sequence[Job]) -> list[StageCost]:
    """Return each job's cost; in rounds as if all of them took place, each stage with as much to do as in the first one."""
    once = [job for job in jobs if not job.rounds.number]
    first = {job.stage: job for job in jobs if job.rounds.number == 1 and job.stage in STAGES}
    known = Costs(settings, [*first.values(), *once])
    return [known.of(_as_in(first, job)) for job in jobs]


def _as_in(first: Mapping[str, Job], job: Job) -> Job:
    """A job of a later round with the settings of the first one: files and models that no round has made yet tell nothing."""
    return (
        replace(first[job.stage], name=job.name, rounds=job.rounds) if job.stage in first and job.rounds.number else job
    )


class Costs:
    """The costs of a launch, stage by stage; what one stage makes is what the next has to do.

    Args:
        settings: of the launch.
        jobs: its stages in order.
    """

    def __init__(self, settings: LaunchSettings, jobs: Sequence[Job]) -> None:
        self.settings, self.all, self.jobs = settings, tuple(jobs), {job.stage: job for job in jobs}
        self.gpu: GPU | None = find_gpu(settings.costs.gpu) if settings.costs.gpu else None
        self._training: Composed | None = None

    @property
    def _costs(self) -> CostSettings:
        return self.settings.costs

    def stages(self) -> list[StageCost]:
        """Return each job's; one that cannot be reckoned says why."""
        return [self.of(job) for job in self.all]

    def of(self, job: Job) -> StageCost:
        """Return one job's."""
        return replace(self._stage(job), stage=job.name.removeprefix(f"{self.settings.run.name}_"))

    def _stage(self, job: Job) -> StageCost:
        reckon: Mapping[str, Callable[[Job], StageCost]] = {
            "sample": self._sample,
            "label": self._label,
            "annotate": self._annotate,
            "train": self._train,
            "generate": self._generate,
            "evaluate": self._evaluate,
        }
        try:
            return reckon.get(job.stage, lambda job: StageCost(job.stage, "on a processor alone"))(job)
        except UserError as error:
            return self._unknown(job, str(error))

    def _unknown(self, job: Job, why: str) -> StageCost:
        gpus = job.nodes * job.processes_per_node if job.ranked else 0
        most = cost_gpu.most_hours(job, self.settings.cluster) if job.ranked else 0.0
        return StageCost(job.stage, "not known", None if gpus else 0.0, gpus, 0.0, most, unknown=why)

    def _ranked(self, job: Job, what: str, seconds: float | None, source: str) -> StageCost:
        most = cost_gpu.most_hours(job, self.settings.cluster)
        gpus = job.nodes * job.processes_per_node
        return StageCost(job.stage, what, seconds, gpus, self._costs.start_minutes * 60, most, source=source)

    # --- stages with ranks

    def _sample(self, job: Job) -> StageCost:
        asked, samples = self._asked(job), int(job.composed.get("num_samples"))
        rows = cost_gpu.Rows(asked.count, asked.tokens, asked.images, self._costs.answer_tokens)
        what = f"{asked.count:,} prompts, {samples} answers each"
        seconds = self._answering(job, rows, samples, int(job.composed.get("max_new_tokens")))
        return self._ranked(job, what, seconds, asked.source)

    def _answering(self, job: Job, rows: cost_gpu.Rows, samples: int, most: int) -> float | None:
        if self.gpu is None:
            return None
        return cost_gpu.answering_seconds(job, self._model(job).config, self.gpu, rows, samples, most)

    def _annotate(self, job: Job) -> StageCost:
        asked, candidates = self._asked(job), self._candidates(job)
        rows = cost_gpu.Rows(asked.count, asked.tokens, asked.images, self._costs.answer_tokens)
        what = f"{asked.count:,} prompts, {candidates:g} answers each"
        if self.gpu is None:
            return self._ranked(job, what, None, asked.source)
        seconds = cost_gpu.rating_seconds(job, self._model(job).config, self.gpu, rows, candidates)
        return self._ranked(job, what, seconds, asked.source)

    def _train(self, job: Job) -> StageCost:
        examples, prompts, source = self._examples(job)
        if self.gpu is None:
            return self._ranked(job, f"{examples:,} examples", None, source)
        tokens, images = (prompts.tokens, prompts.images) if prompts else self._usual
        rows = cost_gpu.Rows(examples, tokens, images, self._costs.answer_tokens)
        found = cost_gpu.usual_rows(cost_gpu.training_job(job.composed, job), rows)
        steps = cost_gpu.training_steps(job.composed, found, examples)
        seconds = steps * cost_gpu.step_seconds(found, self.gpu)
        what = f"{examples:,} examples, {steps:,} steps"
        objective = read_recipe(job.composed.plain("recipe"))
        if objective.needs_reference and not objective.reference_stored:
            reference = cost_gpu.reference_seconds(found, self.gpu, examples)
            what += f", {reference / 60:.1f} min for the reference's log-probs before them"
            seconds += reference
        return self._ranked(job, what, seconds, source)

    def _generate(self, job: Job) -> StageCost:
        samples, most = int(job.composed.get("num_samples")), int(job.composed.get("max_new_tokens"))
        if sizes := self._task_sizes(job):
            times = self._variants(job)
            parts = [self._task_seconds(job, size, samples) for size in sizes.values()]
            seconds = None if self.gpu is None else times * sum(part for part in parts if part)
            count = times * sum(size.prompts * size.turns for size in sizes.values())
            source = ", ".join(f"{name} {size.prompts:,} {size.known}" for name, size in sizes.items())
            return self._ranked(job, f"{count:,} answers for {', '.join(sizes)}", seconds, source)
        asked = self._asked(job)
        count = asked.count * self._assignments(job)
        rows = cost_gpu.Rows(count, asked.tokens, asked.images, self._costs.answer_tokens)
        seconds = self._answering(job, rows, samples, most)
        return self._ranked(job, f"{count * samples:,} answers", seconds, asked.source)

    def _task_seconds(self, job: Job, size: TaskSize, samples: int) -> float | None:
        before = (size.turns - 1) / 2 * (size.prompt_tokens + size.answer_tokens)  # what earlier turns have left
        rows = cost_gpu.Rows(size.prompts, size.prompt_tokens + before, size.images, size.answer_tokens)
        seconds = self._answering(job, rows, samples, size.most_tokens)
        return None if seconds is None else size.turns * seconds

    # --- stages that ask a judge

    def _label(self, job: Job) -> StageCost:
        asked, candidates = self._asked(job), round(self._candidates(job))
        count = min(asked.count, int(job.composed.get("sample") or asked.count))
        tokens = self._costs.answer_tokens
        questions = rated_questions(job.composed, asked, count, candidates, _schema(job), tokens)
        what = f"{count:,} prompts, {candidates} answers each, judge={job.composed.choices['judge']}"
        return StageCost(job.stage, what, judge=judge_use(job.composed, [questions]), source=asked.source)

    def _evaluate(self, job: Job) -> StageCost:
        models, repeats = len(job.composed.get("answers") or {}), max(1, int(job.composed.get("repeat") or 1))
        tasks = task_settings(job.composed) or {job.composed.choices["task"]: job.composed.plain("task")}
        questions = [
            found for name, own in tasks.items() if (found := self._task_questions(job, name, own, models * repeats))
        ]
        asks = f", judge={job.composed.choices['judge']}" if questions else ", no judge"
        what = f"{', '.join(tasks)} of {models} model{'s' * (models != 1)}{asks}"
        return StageCost(job.stage, what, judge=judge_use(job.composed, questions))

    def _task_questions(self, job: Job, name: str, own: Mapping[str, Any], times: int) -> Questions | None:
        if is_rated(task_class(own)):
            asked = self._asked(job)
            count, tokens = asked.count * times, self._costs.answer_tokens
            return rated_questions(job.composed, asked, count, 1, _schema(job), tokens)
        if "data" not in own:
            return None  # scores prompts of the user's by rules
        size = task_size(name, own, _schema(job), self._costs)
        if not size.judge_calls:
            return None
        return task_questions(job.composed, size.judge_calls * times, Tokens(size.judge_input, size.judge_output))

    # --- what there is to do

    @property
    def _usual(self) -> tuple[float, float]:
        return float(self._costs.prompt_tokens), self._costs.images_per_prompt

    def _asked(self, job: Job) -> Asked:
        held_out = job.stage in ("generate", "evaluate")
        key = "expected_questions" if held_out else "expected_prompts"
        whole, parts = job.rounds.prompts or (None, 1)
        found = asked_prompts(job.composed, getattr(self._costs, key), key, self._costs, whole)
        return replace(found, count=math.ceil(found.count / parts)) if whole else found

    def _candidates(self, job: Job) -> float:
        """Answers per prompt: those that are sampled before, else those of the file."""
        if "sample" in self.jobs:
            return int(self.jobs["sample"].composed.get("num_samples"))
        path = Path(str(job.composed.get("candidates")))
        if not path.is_file():
            raise UserError(f"{path} is not here, and no stage before makes it")
        counts = [len(one.candidates) for one in read_records(path, CandidateSet)]
        return sum(counts) / max(1, len(counts))

    def _examples(self, job: Job) -> tuple[int, Asked | None, str]:
        """Examples of the training, the prompts that they come from where these are part of the launch, and how it is known."""
        source = next((self.jobs[name] for name in ("sample", "label", "annotate") if name in self.jobs), None)
        prompts = self._asked(source) if source and "build" in self.jobs else None
        if self._costs.expected_examples:
            return self._costs.expected_examples * job.rounds.data_of, prompts, "expected: costs.expected_examples"
        if prompts is None or source is None:
            path = Path(str(job.composed.get("data.train")))
            return _lines(path), None, f"counted in {path}"
        recipe = find_recipe(job.composed.get("recipe.name"))
        examples = recipe.usual_examples(prompts.count, self._candidates(source))
        return (
            examples * job.rounds.data_of,
            prompts,
            f"{recipe.data}: as many as are usually made of {prompts.count:,} prompts; else costs.expected_examples",
        )

    def _task_sizes(self, job: Job) -> dict[str, TaskSize]:
        settings = task_settings(job.composed)
        return {name: task_size(name, own, _schema(job), self._costs) for name, own in settings.items()}

    def _assignments(self, job: Job) -> int:
        """How often each prompt is answered: once, or once per value of the attributes that are swept."""
        sweep = job.composed.plain("sweep") or []
        schema = _schema(job)
        names = schema.names if "all" in sweep else sweep
        return sum(int(schema[name].maximum - schema[name].minimum) + 1 for name in names) or 1

    def _variants(self, job: Job) -> int:
        """Answers to a task's prompt: with and without the attribute line, where the model was trained to be asked."""
        training, checkpoint = self._training_of(job), job.composed.get("checkpoint")
        starts = checkpoint in (training.get("model.hf_path"), training.get("model.checkpoint"))
        conditioned = find_recipe(training.get("recipe.name")).samples.attributed and not starts
        return 2 if conditioned and job.composed.get("variants") == "auto" else 1

    def _training_of(self, job: Job) -> Composed:
        if self._training is None:
            self._training = compose_stage("train", job.training_overrides)
        return self._training

    def _model(self, job: Job) -> TrainingJob:
        """The training whose model and layout this stage has."""
        return cost_gpu.training_job(self._training_of(job), job)


def _schema(job: Job) -> AttributeSchema:
    return read(AttributeSchema, job.composed.plain("attribute_schema"), "attribute_schema")


def _lines(path: Path) -> int:
    if not (path.is_file() and path.suffix == ".jsonl"):
        raise UserError(f"{path} is no JSONL file that is here. Give costs.expected_examples=NUMBER")
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
