"""A rough time for a training step. The time ranks layouts against each other and says what a run will cost; it is no promise.

What a micro batch takes on a GPU stands in `capacity.micro_batch_time`, fitted to measurements; links and more than one GPU
are not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.capacity.activations import LayerActivations
from nemo_mm_align.capacity.gpus import GPU
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.memory import GPU_KERNELS
from nemo_mm_align.capacity.micro_batch_time import stage_seconds, update_seconds
from nemo_mm_align.capacity.operations import computed_flops
from nemo_mm_align.capacity.parameters import rank_parameters

ASSUMED_LINK_SHARE = 0.7
"""Share of a link's data-sheet rate that collectives are assumed to reach."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step by cause; `bubble` is the pipeline's filling and draining, `update` the optimizer's."""

    compute: float
    tensor_parallel: float
    pipeline: float
    bubble: float
    data_parallel: float
    update: float
    flops: float

    @property
    def total(self) -> float:
        """Seconds of a step if nothing overlaps."""
        return self.compute + self.tensor_parallel + self.pipeline + self.bubble + self.data_parallel + self.update


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
    trained = {stage: rank_parameters(job, stage).trained(job) for stage in distinct}
    compute, sums = max(
        (stage_seconds(job, stage, gpu, trained[stage]), _tensor_parallel_seconds(job, gpu, layers[stage]))
        for stage in distinct
    )
    across_nodes = gpu.network_bandwidth if job.nodes > 1 else gpu.node_bandwidth
    travels = LayerActivations(job, GPU_KERNELS).boundary() * 2 if stages > 1 else 0.0
    most_trained = max(trained.values())
    gradients = 2 * (replicas - 1) / replicas * most_trained * 4
    flops = sum(map(sum, (computed_flops(job, stage) for stage in range(stages)))) * job.micro_batches * replicas
    hop = travels / (across_nodes * ASSUMED_LINK_SHARE)
    return StepTime(
        compute=job.micro_batches * compute,
        tensor_parallel=job.micro_batches * sums,
        pipeline=job.micro_batches * hop,
        bubble=(stages - 1) * (compute + sums + hop),
        data_parallel=gradients / (across_nodes * ASSUMED_LINK_SHARE),
        update=update_seconds(job, gpu, most_trained),
        flops=flops,
    )
