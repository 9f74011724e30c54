"""Memory of a pass without gradients, such as those that compute reference log-probs, and how many samples it may take."""

from __future__ import annotations

from dataclasses import replace

from nemo_mm_align.capacity.activations import inputs
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.losses import logits_without_gradients
from nemo_mm_align.capacity.memory import stage_memory

ENOUGH_TOKENS = 16_384
"""Positions of a pass beyond which it gets no quicker: matrix products, not their launches, take its time."""

_WIDE, _WIDE_ADAPTED = 4, 8
"""Tensors of the feed-forward width alive at once in a layer: gate and up, the activated one; adapters' outputs, which the lever
``lora`` does without. One more without adapters, for layers whose attention is the widest place."""
_HIDDEN = 4.7
"""Tensors of the hidden width: the residual, the normed input, two that are being added; measured where it is no whole number."""


def forward_bytes(job: TrainingJob, stage: int) -> float:
    """Bytes beside the weights at the worst moment of a micro batch's pass through a stage: in a layer, or at the logits."""
    language, t = job.config.language, job.parallel.tensor_model_parallel_size
    tokens, held = job.rows * job.row_length * job.element_bytes, sum(inputs(job, stage).values())
    adapted = job.lora is not None and bool({"gate", "up"} & set(job.lora.targets)) and "lora" not in job.levers
    wide = (_WIDE_ADAPTED if adapted else _WIDE) * language.ffn_hidden_size / t
    in_layer = tokens * (wide + _HIDDEN * language.hidden_size)
    if stage < job.parallel.pipeline_model_parallel_size - 1:
        return held + in_layer
    return held + max(in_layer, logits_without_gradients(job) + tokens * language.hidden_size)


def samples_without_gradients(job: TrainingJob, longest_row: int) -> int:
    """Return how many samples a pass without gradients takes at a time: at least a training micro batch's.

    As many as there is memory for that training will need anyway (activations, gradients, optimizer: none of it is there
    yet when the reference is computed), and no more than make a pass quicker.

    Args:
        longest_row: positions of the longest row of the data, at most the job's own.
    """
    alone = job.padded
    chosen = alone.micro_batch_size
    while (samples := chosen * 2) * longest_row * job.sample_rows <= ENOUGH_TOKENS:
        if not _fits(replace(alone, micro_batch_size=samples), job):
            break
        chosen = samples
    return chosen


def _fits(wider: TrainingJob, job: TrainingJob) -> bool:
    stages = range(job.parallel.pipeline_model_parallel_size)
    trained = [stage_memory(job, stage) for stage in stages]
    return all(
        forward_bytes(wider, stage) <= found.peak - found.weights - found.context
        for stage, found in zip(stages, trained, strict=True)
    )
