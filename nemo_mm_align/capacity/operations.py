"""Floating-point operations of training: the one count that estimates, benchmarks and every run's MFU go by.

A multiply-add is two operations. A matrix that is trained takes three products per token (forward, gradient of its input,
gradient of its weight), 6 operations per weight; a frozen one that gradients pass through takes two, 4 per weight, as the
language model's under LoRA; a frozen one before the first trained weight takes one, as the vision tower's.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.model.config import LlavaConfig


@dataclass(frozen=True)
class Work:
    """What rows ask of a model, padding left out where they are known.

    Args:
        tokens: positions of the rows.
        attended: pairs of a position and one that it attends to.
        labelled: positions whose logits are computed.
        images: that pass the vision tower.
    """

    tokens: float
    attended: float
    labelled: float
    images: float

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens,
            self.attended + other.attended,
            self.labelled + other.labelled,
            self.images + other.images,
        )


def estimated_work(job: TrainingJob) -> Work:
    """One micro batch of a job's longest rows, as kernels compute it."""
    return Work(job.rows * job.row_length, job.attended, job.labelled, job.images)


def stage_flops(job: TrainingJob, stage: int, work: Work, recompute: str) -> tuple[float, float]:
    """Operations of a pipeline stage for `work`, over all its TP ranks: in the decoder's linear layers, and elsewhere.

    Args:
        recompute: ``none`` counts what the model needs (MFU), else what is computed again counts too.
    """
    layers, language = job.config.layers_per_stage(job.parallel), job.config.language
    linear = 2.0 * work.tokens * language.linear_parameters * layers[stage]
    passes = (3 if job.trains_language else 2) + (recompute == "full")
    adapters = job.lora.num_parameters(language) * layers[stage] / sum(layers) if job.lora else 0
    other = 6.0 * adapters * work.tokens + _attention(job, stage, work, recompute)
    if stage == 0:
        vision = job.config.vision
        tower = 2.0 * work.images * vision.tokens_per_image * vision.num_parameters()
        other += tower * (3 if job.train_vision else 1)
    if stage == len(layers) - 1:
        output = 2.0 * work.labelled * language.hidden_size * language.vocab_size
        other += output * (3 if job.trains_language else 2)
    return linear * passes, other


def _attention(job: TrainingJob, stage: int, work: Work, recompute: str) -> float:
    """Operations of a stage's scores and weighted sums: two products forward, four backward."""
    layers = job.config.layers_per_stage(job.parallel)[stage]
    forward = 4.0 * work.attended * job.config.language.query_width * layers
    return forward * (3 + (recompute in ("full", "selective")))


def attention_flops(job: TrainingJob, stage: int) -> float:
    """Operations of attention within `computed_flops`' second number."""
    return _attention(job, stage, estimated_work(job), job.engine.recompute)


def computed_flops(job: TrainingJob, stage: int) -> tuple[float, float]:
    """The same for one micro batch of the job's longest rows, with what the job computes again."""
    return stage_flops(job, stage, estimated_work(job), job.engine.recompute)


def model_flops(job: TrainingJob, work: Work) -> float:
    """Operations that training on `work` needs, over all stages: what MFU is reckoned with, nothing counted twice."""
    stages = range(job.parallel.pipeline_model_parallel_size)
    return sum(sum(stage_flops(job, stage, work, "none")) for stage in stages)


def forward_flops(config: LlavaConfig, work: Work) -> float:
    """Operations of one pass without gradients over `work`, over all stages: prompts, ratings, reference log-probs."""
    language, vision = config.language, config.vision
    linear = 2.0 * work.tokens * language.linear_parameters * language.num_layers
    attention = 4.0 * work.attended * language.query_width * language.num_layers
    tower = 2.0 * work.images * vision.tokens_per_image * vision.num_parameters()
    return linear + attention + tower + 2.0 * work.labelled * language.hidden_size * language.vocab_size
