"""GPU time of stages with ranks: what capacity/ reckons for their layouts, times what they have to do."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nemo_mm_align.capacity.decoding import Answering, forward_seconds, refilled_seconds
from nemo_mm_align.capacity.forward import ENOUGH_TOKENS
from nemo_mm_align.capacity.gpus import GPU
from nemo_mm_align.capacity.job import TrainingJob, read_job
from nemo_mm_align.capacity.operations import Work, estimated_work
from nemo_mm_align.capacity.steptime import time_of_rows
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.launch.compose import Composed
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.settings import Cluster, SlurmCluster
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.model.settings import layout_of, read_parallel
from nemo_mm_align.recipes.registry import read_recipe

_SLURM_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_PASSES_PER_STAGE = 2


@dataclass(frozen=True)
class Rows:
    """What a stage answers or rates: prompts, the positions of one, its images, and its answers' tokens."""

    prompts: int
    tokens: float
    images: float
    answer: float

    def positions(self, config: LlavaConfig) -> float:
        """Of a prompt, image embeddings included."""
        return self.tokens + self.images * config.tokens_per_image


def training_values(composed: Composed) -> Mapping[str, Any]:
    """Return of a composed training configuration what estimates read."""
    names = ("model", "recipe", "trainer", "attribute_schema", "checkpoint", "precision", "seed")
    return {name: composed.plain(name) for name in names}


def training_job(composed: Composed, job: Job) -> TrainingJob:
    """Return the training as an estimate sees it; raise `UserError` where sizes or layout are not known."""
    found = read_job(training_values(composed), job.nodes, job.processes_per_node)
    found.check()
    return found


def layout(job: Job) -> ParallelConfig:
    """Layout of a stage that answers or rates."""
    keys = {key: job.composed.get(key) for key in layout_keys() if job.composed.get(key) is not None}
    return read_parallel(keys)


def layout_keys() -> tuple[str, ...]:
    """Names of a layout's settings."""
    return tuple(vars(layout_of(object())))


def answering_seconds(job: Job, config: LlavaConfig, gpu: GPU, rows: Rows, samples: int, most: int) -> float:
    """Seconds of `sample` or `generate`: as many rows as fit, refilled as they end, on all replicas side by side."""
    split = layout(job)
    replicas = split.data_parallel_size(job.nodes * job.processes_per_node)
    prompt = rows.positions(config)
    answers = math.ceil(rows.prompts / replicas) * samples
    slots = min(max(int(job.composed.get("max_batch_tokens") // (prompt + most)), 1), answers)
    asked = Answering(slots, prompt, rows.images, rows.answer, most)
    return refilled_seconds(config, gpu, split, asked, answers)


def rating_seconds(job: Job, config: LlavaConfig, gpu: GPU, rows: Rows, candidates: float) -> float:
    """Seconds of `annotate`: all candidates of a prompt in one row behind it, no gradients."""
    split = layout(job)
    replicas = split.data_parallel_size(job.nodes * job.processes_per_node)
    length = rows.positions(config) + candidates * rows.answer
    together = max(1, int(job.composed.get("max_batch_tokens") // length))
    work = Work(together * length, together * length**2 / 2, 0, together * rows.images)
    return math.ceil(rows.prompts / replicas / together) * forward_seconds(config, gpu, split, work)


def usual_rows(job: TrainingJob, rows: Rows) -> TrainingJob:
    """Return the training with rows of the length that these prompts and answers make."""
    length = min(job.workload.length, math.ceil(rows.positions(job.config) + rows.answer))
    answer = min(job.workload.answer, math.ceil(rows.answer), length - 1)
    work = replace(job.workload, length=length, answer_tokens=answer, images_per_sample=math.ceil(rows.images))
    return replace(job, workload=work)


def training_steps(composed: Composed, job: TrainingJob, examples: int) -> int:
    """Optimizer steps of a training on so many examples."""
    epochs = read_recipe(composed.plain("recipe")).epochs
    steps = math.ceil(examples * epochs / job.global_batch_size)
    most = int(composed.get("trainer.max_steps") or -1)
    return min(steps, most) if most > 0 else steps


def step_seconds(job: TrainingJob, gpu: GPU) -> float:
    """Seconds of an optimizer step."""
    return time_of_rows(job, gpu).total


def reference_seconds(job: TrainingJob, gpu: GPU, examples: int) -> float:
    """Seconds of the passes that compute the reference's log-probs, once for all examples."""
    job = job.padded
    together = max(job.micro_batch_size, ENOUGH_TOKENS // (job.row_length * job.sample_rows))
    work = estimated_work(replace(job, micro_batch_size=together))
    stages = job.parallel.pipeline_model_parallel_size
    bubble = 1 + (stages - 1) / (_PASSES_PER_STAGE * stages) if stages > 1 else 1.0
    passes = math.ceil(examples / job.data_parallel_size / together)
    return passes * forward_seconds(job.config, gpu, job.parallel, work) / stages * bubble


def most_hours(job: Job, cluster: Cluster) -> float | None:
    """GPU-hours that a job can take at most: its time limit, after which it is requeued so many times; None: no limit."""
    if not isinstance(cluster, SlurmCluster):
        return None
    starts = 1 + cluster.max_requeues
    return limit_seconds(job.time_limit) / 3600 * job.nodes * job.processes_per_node * starts


def limit_seconds(limit: int | str) -> float:
    """Return a time limit as Slurm reads it, in seconds: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        UserError: it is none of these.
    """
    found = _SLURM_TIME.fullmatch(str(limit).strip())
    if found is None:
        raise UserError(f"run.time_limit={limit!r}: give minutes, H:M:S or D-H:M:S.")
    days, *parts = found.groups()
    values = [int(part) for part in parts if part is not None]
    if days is not None:  # D-H, D-H:M, D-H:M:S
        hours, minutes, seconds = [*values, 0, 0][:3]
        return int(days) * 86400.0 + hours * 3600 + minutes * 60 + seconds
    if len(values) == 1:
        return values[0] * 60.0
    hours, minutes, seconds = [0, *values][-3:]
    return hours * 3600.0 + minutes * 60 + seconds
