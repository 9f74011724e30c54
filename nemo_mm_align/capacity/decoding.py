"""Seconds that a model takes to answer, and to read without answering: a formula fitted to one card, see docs/BENCHMARKS.md.

A token of a batch takes

    (W + B x C x K) / bandwidth + layers x overhead,    K counted 1 / `CACHE_SHARE` times

where W are the bytes of all weights that a token passes (decoder and output layer), B rows, C positions that a row looks back
at, and K the bytes of keys and values per position. Under tensor parallelism W and K are divided by its size; pipeline stages
take their turns, so all layers count whatever the number of stages. Recorded CUDA graphs leave the small overhead; they are there
where a model lies on one GPU. Elsewhere the host launches each kernel, and no token is quicker than that.

Fitted to a 7B in bf16 on one H200 (27 and 28 November 2026; prompts of an image and 40 words, 81 new tokens): a token of 1, 16
and 64 rows took 7.0, 9.7 to 10.1 and 19.8 to 20.9 ms (here 6.5, 9.8 and 20.4), their prompts 0.13, 0.30 to 0.31 and 1.16 to
1.2 s (here 0.13, 0.30 and 1.21). No other size, card or layout has been measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.capacity.gpus import GPU
from nemo_mm_align.capacity.micro_batch_time import copied_per_second
from nemo_mm_align.capacity.operations import Work, forward_flops
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig

OVERHEAD_PER_LAYER = 0.095e-3
"""Seconds of a layer's kernels in a recorded graph, beside what their bytes take."""
CACHE_SHARE = 0.40
"""Of that bandwidth, reached by attention to keys and values."""
CALLS_PER_LAYER = 1.4e-3
"""Seconds to launch a layer's kernels one by one for a token: 43 to 53 ms for 32 layers, once 74."""
FORWARD_MFU = 0.45
"""Share of the data sheet's bf16 rate in a pass over prompts."""
PROMPTS_PER_LAYER = 4e-3
"""Seconds that the host takes for a layer of a pass over prompts, however few."""
LONGEST_OF_BATCH = 2.5
"""A batch runs as long as its longest answer: 2.2 to 2.6 times the mean of 16 in the published MT-Bench answers of LLaVA-1.5-13B
and of two models trained from it."""

_BF16 = 2


@dataclass(frozen=True)
class Answering:
    """Rows that are answered together.

    Args:
        rows: B, answers of a batch.
        prompt: positions of a prompt, image embeddings included.
        images: of a prompt.
        answer: tokens of a usual answer.
        most: tokens at which an answer is cut.
    """

    rows: int
    prompt: float
    images: float
    answer: float
    most: int

    @property
    def steps(self) -> float:
        """Tokens of the longest answer."""
        return min(float(self.most), LONGEST_OF_BATCH * self.answer)

    @property
    def prompts_work(self) -> Work:
        """What the pass over the prompts has to do."""
        positions = self.rows * self.prompt
        return Work(positions, positions * self.prompt / 2, self.rows, self.rows * self.images)


def forward_seconds(config: LlavaConfig, gpu: GPU, layout: ParallelConfig, work: Work) -> float:
    """Seconds of one pass without gradients of a replica; its stages take their turns."""
    computing = forward_flops(config, work) / (gpu.bf16_flops * FORWARD_MFU * layout.tensor_model_parallel_size)
    return max(computing, config.language.num_layers * PROMPTS_PER_LAYER)


def token_seconds(config: LlavaConfig, gpu: GPU, layout: ParallelConfig, rows: float, context: float) -> float:
    """Seconds of one token of `rows` answers that look back at `context` positions each."""
    language, t = config.language, layout.tensor_model_parallel_size
    weights = language.linear_parameters * language.num_layers + language.vocab_size * language.hidden_size
    cache = 2 * language.num_layers * language.key_width * rows * context / CACHE_SHARE
    reading = (weights + cache) * _BF16 / t / copied_per_second(gpu)
    recorded = reading + language.num_layers * OVERHEAD_PER_LAYER
    alone = layout.tensor_model_parallel_size * layout.pipeline_model_parallel_size == 1
    return recorded if alone else max(recorded, language.num_layers * CALLS_PER_LAYER)


def batch_seconds(config: LlavaConfig, gpu: GPU, layout: ParallelConfig, asked: Answering) -> float:
    """Seconds of one batch of a replica, from its prompts to the end of its longest answer; rows leave as they end."""
    busy = asked.rows * min(1.0, asked.answer / asked.steps)
    context = asked.prompt + asked.answer / 2
    prompts = forward_seconds(config, gpu, layout, asked.prompts_work)
    return prompts + asked.steps * token_seconds(config, gpu, layout, busy, context)


def refilled_seconds(config: LlavaConfig, gpu: GPU, layout: ParallelConfig, asked: Answering, answers: float) -> float:
    """Seconds of so many answers of a replica, `asked.rows` at a time: rows are refilled as they end, but for the last batch.

    Where prompts are computed, nothing is decoded meanwhile.
    """
    refills = max(0.0, answers / asked.rows - 1)
    prompts = forward_seconds(config, gpu, layout, asked.prompts_work)
    token = token_seconds(config, gpu, layout, asked.rows, asked.prompt + asked.answer / 2)
    return refills * (prompts + asked.answer * token) + batch_seconds(config, gpu, layout, asked)
