"""A rough time for a training step. The time ranks layouts against each other and says what a run will cost; it is no promise.

Of eleven micro batches of 7B and 13B that were measured on one H200 (LoRA for pairs, conditioned and plain answers; all weights)
it is within a third: `tests/unit/test_capacity_measured.py`. Links and more than one GPU are not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.capacity.activations import LayerActivations
from nemo_mm_align.capacity.gpus import GPU
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.memory import GPU_KERNELS
from nemo_mm_align.capacity.operations import computed_flops
from nemo_mm_align.capacity.parameters import rank_parameters

ASSUMED_MFU = 0.34
"""Share of the data sheet's bf16 rate that a GPU reaches while it computes: a 7B with LoRA on an H200, see BENCHMARKS.md."""
ASSUMED_FP8_GAIN = 1.16
"""How much faster the decoder's linear layers are in FP8, quantisation included: the same measurement."""
HOST_SECONDS_PER_LAYER = 0.010
"""What the host takes to launch one decoder layer forward and backward, whatever its rows: the same machine, a slow one."""
HOST_FP8 = 1.19
"""How many more kernels there are to launch in FP8."""
ASSUMED_LINK_SHARE = 0.7
"""Share of a link's data-sheet rate that collectives are assumed to reach."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step by cause; `bubble` is the pipeline's filling and draining."""

    compute: float
    tensor_parallel: float
    pipeline: float
    bubble: float
    data_parallel: float
    flops: float

    @property
    def total(self) -> float:
        """Seconds of a step if nothing overlaps."""
        return self.compute + self.tensor_parallel + self.pipeline + self.bubble + self.data_parallel


def _stage_seconds(job: TrainingJob, stage: int, gpu: GPU) -> float:
    """The GPU's time, or the host's where it launches kernels more slowly than they run."""
    linear, other = computed_flops(job, stage)
    rate = gpu.bf16_flops * ASSUMED_MFU * job.parallel.tensor_model_parallel_size
    computing = linear / (rate * (ASSUMED_FP8_GAIN if job.fp8 else 1.0)) + other / rate
    return max(computing, _launch_seconds(job, stage))


def _launch_seconds(job: TrainingJob, stage: int) -> float:
    layers = job.config.layers_per_stage(job.parallel)[stage]
    again = (
        4 / 3 if job.engine.recompute == "full" else 1.0
    )  # one more forward pass beside a forward and a backward one
    return layers * HOST_SECONDS_PER_LAYER * again * (HOST_FP8 if job.fp8 else 1.0)


def _tensor_parallel_seconds(job: TrainingJob, gpu: GPU, layers: int) -> float:
    t = job.parallel.tensor_model_parallel_size
    if t == 1:
        return 0.0
    state = job.rows * job.row_length * job.config.language.hidden_size * job.element_bytes
    passes = 4 + 2 * (job.engine.recompute == "full")  # two sums forward, two backward
    bandwidth = gpu.node_bandwidth if t <= gpu.per_node else gpu.network_bandwidth
    return layers * passes * 2 * (t - 1) / t * state / (bandwidth * ASSUMED_LINK_SHARE)


def step_time(job: TrainingJob, gpu: GPU) -> StepTime:
    """Estimate a step of rows of usual length."""
    return time_of_rows(job.usual, gpu)


def time_of_rows(job: TrainingJob, gpu: GPU) -> StepTime:
    """Estimate a step of the job's own rows: the slowest stage times micro batches, the bubble, what does not overlap."""
    parallel, replicas = job.parallel, job.data_parallel_size
    stages, layers = parallel.pipeline_model_parallel_size, job.config.layers_per_stage(parallel)
    distinct = sorted({0, 1 % stages, stages - 1})  # inner stages are alike
    compute, sums = max(
        (_stage_seconds(job, stage, gpu), _tensor_parallel_seconds(job, gpu, layers[stage])) for stage in distinct
    )
    across_nodes = gpu.network_bandwidth if job.nodes > 1 else gpu.node_bandwidth
    travels = LayerActivations(job, GPU_KERNELS).boundary() * 2 if stages > 1 else 0.0
    trained = max(rank_parameters(job, stage).trained(job) for stage in distinct)
    gradients = 2 * (replicas - 1) / replicas * trained * 4
    flops = sum(map(sum, (computed_flops(job, stage) for stage in range(stages)))) * job.micro_batches * replicas
    hop = travels / (across_nodes * ASSUMED_LINK_SHARE)
    return StepTime(
        compute=job.micro_batches * compute,
        tensor_parallel=job.micro_batches * sums,
        pipeline=job.micro_batches * hop,
        bubble=(stages - 1) * (compute + sums + hop),
        data_parallel=gradients / (across_nodes * ASSUMED_LINK_SHARE),
        flops=flops,
    )
