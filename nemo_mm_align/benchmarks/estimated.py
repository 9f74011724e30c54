"""A job of the estimator as a real engine and real rows: what its figures are compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy

from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.config import Levers
from nemo_mm_align.model.llava import Llava, build_llava, set_trainable
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.crops import Crop
from nemo_mm_align.schema.prompts import EncodedSequence
from nemo_mm_align.training.step import TrainingEngine


def build(job: TrainingJob) -> TrainingEngine:
    """Model, gradient buffers and optimizer of a job, with the levers that the estimate is made for, wherever this runs."""
    engine = replace(job.engine, levers=Levers.only(*job.levers))
    model: Llava = build_llava(job.config, job.parallel, engine, job.lora)
    set_trainable(model, language=job.trains_language, projector=True, vision=job.train_vision, adapters=True)
    return TrainingEngine(model, find_recipe(job.method).configured(), OptimConfig(), 10, seed=0)


def micro_batch(job: TrainingJob, number: int) -> Batch:
    """A micro batch of the longest rows: an image, a question and an answer (or two)."""
    config, work = job.config, job.workload
    generator = numpy.random.default_rng(number)

    def tokens(count: int) -> list[int]:
        return [int(token) for token in generator.integers(1, config.image_token_id, count)]

    samples = []
    for row in range(job.micro_batch_size):
        text = work.length - work.answer - config.tokens_per_image
        prompt = [config.image_token_id] * config.tokens_per_image + tokens(text)
        sequences = [
            EncodedSequence(prompt + tokens(work.answer), [False] * len(prompt) + [True] * work.answer)
            for _ in range(job.sequences)
        ]
        reference = [-100.0, -100.0] if job.recipe.objective.needs_reference else None
        samples.append(Sample(f"{number}-{row}", [Path(f"{number}-{row}.png")], sequences, reference))
    size = config.vision.image_size

    def load(path: Path, crop: Crop | None) -> numpy.ndarray:
        return numpy.ones((3, size, size), dtype=numpy.float32)

    image, per_image = config.image_token_id, config.tokens_per_image
    return collate(samples, job.row_length, 0, image, per_image, load, job.has_shared_prefix)
