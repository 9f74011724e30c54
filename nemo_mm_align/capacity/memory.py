"""Memory of one rank of each pipeline stage at its worst moment, and bytes on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nemo_mm_align.capacity.activations import GPU_KERNELS, Kernels, LayerActivations, stage_activations
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.losses import logits, loss_workspace
from nemo_mm_align.capacity.parameters import RankParameters, rank_parameters
from nemo_mm_align.core.units import GIB
from nemo_mm_align.model.config import ParallelConfig

CUDA_CONTEXT = 1.2 * GIB
"""Allowance for CUDA's context, cuBLAS and TransformerEngine workspaces of a process; not measured, see CAPACITY.md."""
NCCL_PER_GROUP = 0.35 * GIB
"""Allowance for NCCL's buffers per communicator of more than one rank; not measured, see CAPACITY.md."""

_GRADIENT = 4  # gradients are summed in fp32
_MOMENTS = 8  # AdamW's two moments in fp32
_MASTER = 4  # fp32 copy of a bf16 weight
_FP8_COPIES = 2  # a quantised weight and its transpose, kept beside the bf16 weight


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one rank of a pipeline stage.

    `activations` are those of all micro batches in flight, `workspace` what comes on top while one layer or the loss is
    computed; `context` is an allowance. The update, TransformerEngine's or apex's, works in place: measured on an H200.
    """

    stage: int
    layers: int
    parameters: RankParameters
    trained: int
    in_flight: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    workspace: float
    context: float

    @property
    def static(self) -> float:
        """Bytes that stay: weights, gradients, optimizer, context."""
        return self.weights + self.gradients + self.optimizer + self.context

    @property
    def peak(self) -> float:
        """Bytes at the worst moment of a step."""
        return self.static + self.activations + self.workspace


def communicators(job: TrainingJob) -> int:
    """NCCL groups of more than one rank that a rank belongs to."""
    parallel = job.parallel
    sizes = (parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size, job.data_parallel_size)
    return sum(size > 1 for size in sizes) + (job.world_size > 1)


def optimizer_bytes(job: TrainingJob, trained: int) -> float:
    """AdamW's state of one rank."""
    each = _MOMENTS + (0 if job.engine.precision == "fp32" else _MASTER)
    return trained * each / (job.data_parallel_size if job.distributed_optimizer else 1)


def workspace(job: TrainingJob, stage: int, kernels: Kernels) -> float:
    """Bytes on top of the saved ones at the worst moment: in the loss, or while a layer is recomputed and differentiated."""
    layer = LayerActivations(job, kernels)
    recomputed = {"none": 0.0, "selective": sum(layer.attention_kernel().values()), "full": layer.total()}
    in_layer = recomputed[job.engine.recompute] + layer.mlp_workspace() + layer.boundary()
    if stage < job.parallel.pipeline_model_parallel_size - 1:
        return in_layer
    # The loss's own tensors are gone when the layers' turn comes.
    return max(loss_workspace(job), in_layer - logits(job).get("softmax", 0.0))


def stage_memory(job: TrainingJob, stage: int, kernels: Kernels = GPU_KERNELS) -> StageMemory:
    """Add up the memory of one tensor-parallel rank of a stage (from 0)."""
    parallel = job.parallel
    stages = parallel.pipeline_model_parallel_size
    layers = job.config.layers_per_stage(parallel)[stage]
    parameters = rank_parameters(job, stage)
    trained = parameters.trained(job)
    fp8 = layers * (job.config.language.linear_parameters // parallel.tensor_model_parallel_size) if job.fp8 else 0
    in_flight = min(stages - stage, job.micro_batches)
    return StageMemory(
        stage=stage,
        layers=layers,
        parameters=parameters,
        trained=trained,
        in_flight=in_flight,
        weights=float(parameters.total * job.element_bytes + fp8 * _FP8_COPIES),
        gradients=float(trained * _GRADIENT),
        optimizer=optimizer_bytes(job, trained),
        activations=in_flight * sum(stage_activations(job, stage, kernels).values()),
        workspace=workspace(job, stage, kernels),
        context=CUDA_CONTEXT + NCCL_PER_GROUP * communicators(job),
    )


def whole_model(job: TrainingJob) -> TrainingJob:
    """The same model on a single rank."""
    return replace(job, parallel=ParallelConfig(), nodes=1, gpus_per_node=1, distributed_optimizer=False)


def checkpoint_bytes(job: TrainingJob) -> float:
    """Bytes of one checkpoint on disk: weights (adapters, head and projector alone with LoRA) and the optimizer's state."""
    whole = whole_model(job)
    parameters = rank_parameters(whole, 0)
    stored = parameters.adapters + parameters.head + parameters.projector if job.lora else parameters.total
    return stored * job.element_bytes + optimizer_bytes(whole, parameters.trained(job))


def key_value_bytes(job: TrainingJob, stage: int, rows: int, length: int) -> float:
    """Keys and values of all layers of a stage on one rank while `rows` answers of up to `length` positions are sampled."""
    language, parallel = job.config.language, job.parallel
    heads = language.groups / parallel.tensor_model_parallel_size
    layers = job.config.layers_per_stage(parallel)[stage]
    return layers * 2 * rows * heads * length * language.kv_channels * job.element_bytes
