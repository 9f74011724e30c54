"""LLaVA-1.5's shapes, and micro batches of equal rows whose memory and operations the project's own counts know."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.benchmarks.gpu import clock
from nemo_mm_align.benchmarks.gpu.records import Skipped
from nemo_mm_align.benchmarks.pairs import Pair, PairSizes, batch_of, draw_pairs, random_pixels, samples_of
from nemo_mm_align.benchmarks.random_models import IMAGE_ID
from nemo_mm_align.benchmarks.recipes import CONDITIONED, PREFERENCE
from nemo_mm_align.capacity.job import TrainingJob, Workload
from nemo_mm_align.capacity.memory import stage_memory
from nemo_mm_align.capacity.operations import model_flops
from nemo_mm_align.core.units import GIB
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.model.arithmetic import round_up
from nemo_mm_align.model.config import (
    EngineConfig,
    LanguageConfig,
    LlavaConfig,
    LoRAConfig,
    ParallelConfig,
    VisionConfig,
)
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.training.work import work_of

_CLIP = VisionConfig(24, 1024, 4096, 16, 336, 14)
_MODELS = {
    "7b": LlavaConfig(LanguageConfig(32, 4096, 11008, 32, 32064), _CLIP, image_token_id=IMAGE_ID),
    "13b": LlavaConfig(LanguageConfig(40, 5120, 13824, 40, 32064), _CLIP, image_token_id=IMAGE_ID),
    "toy": LlavaConfig(LanguageConfig(2, 64, 128, 4, 608), VisionConfig(3, 32, 64, 2, 28, 14), image_token_id=IMAGE_ID),
}
_STEERING_WORDS = 60
"""What a prompt grows by where it carries attributes and their values."""

_DOUBT = 0.05
"""What the estimate may be above the card's memory: such a case is tried, and tells how good the estimate is."""


@dataclass(frozen=True)
class Words:
    """Tokens of a prompt beside its image, and of an answer without its stop token."""

    prompt: int
    answer: int


def model_config(size: str) -> LlavaConfig:
    """Sizes of a model."""
    return _MODELS[size]


def lora_config(size: str) -> LoRAConfig:
    """The paper's adapters; small ones for the toy."""
    return LoRAConfig(8, 16) if size == "toy" else LoRAConfig()


def words(size: str, method: str = PREFERENCE) -> Words:
    """Short prompts, answers of the length that preference data have."""
    usual = Words(12, 8) if size == "toy" else Words(40, 200)
    return Words(usual.prompt + (_STEERING_WORDS if method == CONDITIONED else 0), usual.answer)


@dataclass(frozen=True)
class Rows:
    """A micro batch.

    Args:
        samples: pairs for DPO, else single answers.
        shared: both answers of a pair behind one prompt.
        multiple: row lengths are rounded up to it; ``None`` for what the project does.
    """

    samples: int
    shared: bool = True
    multiple: int | None = None


def job_of(
    size: str, config: LlavaConfig, engine: EngineConfig, lora: LoRAConfig | None, method: str, rows: Rows, count: int
) -> TrainingJob:
    """The training run that `count` micro batches of these rows per step are, for the project's estimates."""
    given = words(size, method)
    length = config.tokens_per_image + given.prompt + given.answer + 1
    shared = rows.shared and find_recipe(method).samples.usual_sequences > 1
    workload = Workload(length, given.answer + 1)
    return TrainingJob(
        config, ParallelConfig(), engine, lora, method, workload, 1, 1, rows.samples, rows.samples * count, shared
    )


def batch_for(size: str, job: TrainingJob, multiple: int | None = None, extra: int = 0, seed: int = 0) -> Batch:
    """One micro batch of a job, random; its rows are `extra` positions longer than they need to be."""
    pairs = _pairs(size, job, seed)
    samples = samples_of(pairs, job.config, chosen_only=job.sequences == 1)
    length = round_up(job.row_length, multiple or 1) + extra
    return batch_of(samples, job.config, random_pixels(pairs), job.has_shared_prefix, length)


def _pairs(size: str, job: TrainingJob, seed: int = 0) -> list[Pair]:
    given = words(size, job.method)
    return draw_pairs(job.config, PairSizes(job.micro_batch_size, given.prompt, (given.answer, given.answer)), seed)


def flops(size: str, job: TrainingJob) -> float:
    """Operations that a micro batch needs, as every training counts them for its MFU; answers are all of one length."""
    samples = samples_of(_pairs(size, job), job.config, chosen_only=job.sequences == 1)
    return model_flops(job, work_of(samples, job.has_shared_prefix))


def estimated_gib(job: TrainingJob) -> float:
    """Peak of a step by the project's estimate, without its allowance for CUDA's context."""
    found = stage_memory(job, 0)
    return (found.peak - found.context) / GIB


def check_memory(job: TrainingJob) -> None:
    """Raise `Skipped` where the estimate, context included, is clearly above the card's memory."""
    card, needed = clock.card_gib(), stage_memory(job, 0).peak / GIB
    if card is not None and needed > card * (1 + _DOUBT):
        raise Skipped(f"{needed:.1f} GiB estimated, the card has {card:.1f} GiB")
