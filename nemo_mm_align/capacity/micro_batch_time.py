"""Seconds that a GPU and its host take for a micro batch of a pipeline stage: a formula fitted to what one H200 took.

The GPU's kernels, forward and backward, in seconds of one tensor-parallel rank of t:

    gpu = [((linear / gain + products) / PRODUCTS + attended / ATTENTION) / peak + layers x n x H x e x PASSES / copied] / t

with the operations of the decoder's linear layers and of other products, those of attention, n tokens, hidden width H, e
bytes of an element, the data sheet's bf16 rate (``peak``) and what the memory copies per second. ``gain`` is 1 in bf16. All
of it grows with the tokens; what does not is the host's part, which launches the kernels one by one:

    host = layers x HOST_SECONDS_PER_LAYER

Both run at the same time, and neither hides the other wholly: seconds = (gpu^4 + host^4)^(1/4). So the share of the peak that
is reached grows with the tokens of a micro batch until the GPU sets the pace. Under tensor parallelism each of the t GPUs has a
host process that launches as many kernels, so that this point comes t times later.

Every measured micro batch is in `capacity.measured`, with what the formula says of it in docs/CAPACITY.md. Measured: 7B and
13B, 1,017 to 8,136 tokens, t = 1, one H200 in a virtual machine with a slow processor. Extrapolated: other cards (by
their data sheets' rates), t > 1, rows much longer, the 70B.
"""

from __future__ import annotations

from nemo_mm_align.capacity.gpus import GPU
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.operations import attention_flops, computed_flops

PRODUCTS = 0.756
"""Of the data sheet's bf16 rate, reached by matrix products of 4,068 tokens: 591 ms of a step of the 13B with LoRA."""
MASKED_ATTENTION, CAUSAL_ATTENTION = 0.089, 0.12
"""The same of attention with a mask (232 ms of that step) and without one (0.84 ms a layer of 4 rows of 1,017)."""
PASSES = 478
"""Reads and writes of a tensor of hidden width per token and layer by everything else, forward and backward: norms, activations,
rotary positions, adapters, dropout: 410 ms of that step. With all weights trained, without adapters, it is about the same."""
MEMORY_SHARE = 0.81
"""Of the data sheet's memory bandwidth: 3.9 of 4.8 TB/s in a copy."""
HOST_SECONDS_PER_LAYER = 0.010
"""To launch one decoder layer forward and backward, whatever its rows: 2 pairs of the 7B, 1 and 2 of the 13B. From one
measurement to the next it differs by a fifth."""
HOST_WITHOUT_ADAPTERS = 0.8
"""How many fewer kernels there are to launch without LoRA: fitted to four micro batches with all weights trained."""
FP8_GAIN = 1.53
"""How much faster the decoder's linear layers are in FP8, quantisation included: the GPU's 605 ms of a step against 701."""
FP8_HOST = 1.19
"""How many more kernels there are to launch in FP8: 15,400 against 12,900."""
GRADIENT_BYTES, UPDATE_BYTES = 12, 38
"""Bytes moved per trained parameter: by a micro batch that adds to its fp32 gradient; by the norm, AdamW and the new weight.
Counted, not measured by themselves."""

_OVERLAP = 4  # of the power mean
_AGAIN = 4 / 3  # one more forward pass beside a forward and a backward one


def copied_per_second(gpu: GPU) -> float:
    """Bytes per second that a card's memory reaches."""
    return gpu.memory_bandwidth * MEMORY_SHARE


def gpu_seconds(job: TrainingJob, stage: int, gpu: GPU) -> float:
    """Seconds that the kernels of a micro batch take on a rank of a stage, were they launched at once."""
    linear, other = computed_flops(job, stage)
    attention = attention_flops(job, stage)
    reached = MASKED_ATTENTION if job.has_mask else CAUSAL_ATTENTION
    products = linear / (FP8_GAIN if job.fp8 else 1.0) + other - attention
    layers = job.config.layers_per_stage(job.parallel)[stage]
    passes = layers * job.state_bytes * PASSES * (_AGAIN if job.engine.recompute == "full" else 1.0)
    computing = products / PRODUCTS + attention / reached
    seconds = computing / gpu.bf16_flops + passes / copied_per_second(gpu)
    return seconds / job.parallel.tensor_model_parallel_size


def host_seconds(job: TrainingJob, stage: int) -> float:
    """Seconds that the host takes to launch a stage's layers for a micro batch."""
    layers = job.config.layers_per_stage(job.parallel)[stage]
    again = _AGAIN if job.engine.recompute == "full" else 1.0
    fewer = 1.0 if job.lora else HOST_WITHOUT_ADAPTERS
    return layers * HOST_SECONDS_PER_LAYER * again * fewer * (FP8_HOST if job.fp8 else 1.0)


def stage_seconds(job: TrainingJob, stage: int, gpu: GPU, trained: int) -> float:
    """Seconds of a micro batch on a stage, of which a rank trains so many parameters; collectives and waiting left out."""
    kernels = gpu_seconds(job, stage, gpu) + trained * GRADIENT_BYTES / copied_per_second(gpu)
    shorter, longer = sorted((kernels, host_seconds(job, stage)))
    return longer * (1.0 + (shorter / longer) ** _OVERLAP) ** (
        1 / _OVERLAP
    )  # no power of what may be as large as anything


def update_seconds(job: TrainingJob, gpu: GPU, trained: int) -> float:
    """Seconds of the optimizer's update on a rank; a distributed optimizer updates its share."""
    share = job.data_parallel_size if job.distributed_optimizer else 1
    return trained * UPDATE_BYTES / share / copied_per_second(gpu)
