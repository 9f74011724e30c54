"""What a rank gives to collectives, and sends to other stages, in one optimizer step: bytes by group and kind.

An all-reduce counts the tensor that is summed, an all-gather the tensor that comes out, a reduce-scatter the one that goes in, a
send what is sent. `wire_bytes` turns that into what passes a rank's link. Counts, norms and metrics (integers, float64 and
single numbers, a few hundred bytes a step) are left out.

Shapes: B rows of a micro batch, S positions of a row, H hidden, P labelled positions, N images, T embeddings of an image, C width
of the tower, R rank of adapters; t tensor-parallel, d data-parallel size; e bytes of an element. For each micro batch:

* **Tensor parallel**, a decoder layer: all-reduces of BSH, two forward and two backward (Shoeybi et al., arXiv 1909.08053). The
  first stage: BSH for the embedding, two of N(T+1)C a layer of the tower, NTH for the projector and, trained, NTC for its
  gradient. The last one: PH for the gradient of the logits' input, 6P in fp32 for losses and entropies, 4P under the lever
  ``losses``.
* **Sequence parallel**, a decoder layer: each all-reduce becomes a gather and a scatter of BSH (Korthikanti et al., arXiv
  2205.05198), and a trained weight has its input gathered twice more. The first stage gathers a gradient of BSH, the last one
  the hidden states.
* **Adapters**, of each BSR: those of row-parallel layers (o, down) forward, those of column-parallel layers (q, k, v, gate, up)
  backward; under sequence parallelism both ways.
* **Recomputation** of layers: their forward part once more.
* **Pipeline parallel**: BSH to the next stage and the gradient back, a t-th of it under sequence parallelism.

Once a step, in fp32: gradients of what is trained over data-parallel ranks; under sequence parallelism those of norms and of the
adapters' copied halves over tensor-parallel ranks; those of tied embeddings between first and last stage.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.parameters import rank_parameters

Group = Literal["tensor", "pipeline", "data", "embedding"]
Kind = Literal["all-reduce", "all-gather", "reduce-scatter", "send"]
Traffic = Counter[tuple[Group, Kind]]
"""Bytes of one rank."""

_FP32 = 4
_COLUMNS = {"q", "k", "v", "gate", "up"}
"""Adapters of layers that are split by outputs."""


def step_traffic(job: TrainingJob, stage: int) -> Traffic:
    """Return what a rank of a stage (from 0) communicates in an optimizer step of the job's longest rows."""
    each: Traffic = Counter()
    if job.parallel.tensor_model_parallel_size > 1:
        for part in (_layers(job, stage), _adapters(job, stage), _first(job) if stage == 0 else {}, _last(job, stage)):
            each.update(part)
    each.update(_between_stages(job, stage))
    total: Traffic = Counter({key: job.micro_batches * size for key, size in each.items()})
    total.update(_gradients(job, stage))
    return Counter({key: size for key, size in total.items() if size})


def wire_bytes(traffic: Traffic, job: TrainingJob) -> float:
    """Return the bytes that pass a rank's link, one way, in ring algorithms: an all-reduce of n ranks takes 2 (n - 1) / n of its
    tensor, a gather or scatter half as much, a send all of it."""
    parallel = job.parallel
    ranks = {
        "tensor": parallel.tensor_model_parallel_size,
        "pipeline": parallel.pipeline_model_parallel_size,
        "data": job.data_parallel_size,
        "embedding": 2,
    }
    shares = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}
    return sum(
        size * (shares[kind] * (ranks[group] - 1) / ranks[group] if kind in shares else 1)
        for (group, kind), size in traffic.items()
    )


def _layers(job: TrainingJob, stage: int) -> Traffic:
    """The decoder layers of a stage."""
    forward = 2 if job.engine.recompute == "full" else 1
    size = 2 * job.config.layers_per_stage(job.parallel)[stage] * job.state_bytes
    if not job.parallel.sequence_parallel:
        return Counter({("tensor", "all-reduce"): size * (forward + 1)})
    again = 1 if job.trains_language else 0  # the input of column-parallel layers, for the gradient of their weights
    return Counter(
        {("tensor", "all-gather"): size * (forward + 1 + again), ("tensor", "reduce-scatter"): size * (forward + 1)}
    )


def _adapters(job: TrainingJob, stage: int) -> Traffic:
    if job.lora is None:
        return Counter()
    forward = 2 if job.engine.recompute == "full" else 1
    one = job.rows * job.row_length * job.lora.rank * job.element_bytes
    size = job.config.layers_per_stage(job.parallel)[stage] * one
    columns = len(_COLUMNS & set(job.lora.targets))
    rows = len(job.lora.targets) - columns
    if not job.parallel.sequence_parallel:
        return Counter({("tensor", "all-reduce"): size * (rows * forward + columns)})
    return Counter(
        {
            ("tensor", "all-gather"): size * (columns * forward + rows),
            ("tensor", "reduce-scatter"): size * (rows * forward + columns),
        }
    )


def _first(job: TrainingJob) -> Traffic:
    """Embedding, tower and projector; the gradient of a sequence that was cut."""
    vision, element = job.config.vision, job.element_bytes
    tower = 2 * vision.computed_layers * job.images * (vision.tokens_per_image + 1) * vision.hidden_size * element
    embeddings = job.images * vision.tokens_per_image * element
    projector = embeddings * job.config.language.hidden_size
    if job.train_projector or job.train_vision:
        projector += embeddings * vision.hidden_size
    return Counter(
        {
            ("tensor", "all-reduce"): job.state_bytes + tower * (2 if job.train_vision else 1) + projector,
            ("tensor", "all-gather"): job.state_bytes if job.parallel.sequence_parallel else 0,
        }
    )


def _last(job: TrainingJob, stage: int) -> Traffic:
    """Logits and losses where labels are; the hidden states of a sequence that was cut."""
    if stage < job.parallel.pipeline_model_parallel_size - 1:
        return Counter()
    numbers = 4 if "losses" in job.levers else 6
    return Counter(
        {
            ("tensor", "all-reduce"): job.labelled_bytes + numbers * job.labelled * _FP32,
            ("tensor", "all-gather"): job.state_bytes if job.parallel.sequence_parallel else 0,
        }
    )


def _between_stages(job: TrainingJob, stage: int) -> Traffic:
    parallel = job.parallel
    sends = (stage < parallel.pipeline_model_parallel_size - 1) + (stage > 0)
    share = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
    return Counter({("pipeline", "send"): sends * job.state_bytes // share})


def _gradients(job: TrainingJob, stage: int) -> Traffic:
    trained = rank_parameters(job, stage).trained(job)
    found: Traffic = Counter()
    if job.data_parallel_size > 1 and job.distributed_optimizer:
        found["data", "reduce-scatter"] = trained * _FP32
        found["data", "all-gather"] = trained * job.element_bytes
    elif job.data_parallel_size > 1:
        found["data", "all-reduce"] = trained * _FP32
    if job.parallel.sequence_parallel:
        found["tensor", "all-reduce"] = _copied(job, stage) * _FP32
    stages, language = job.parallel.pipeline_model_parallel_size, job.config.language
    if language.tie_word_embeddings and job.trains_language and stages > 1 and stage in (0, stages - 1):
        size = job.parallel.tensor_model_parallel_size
        found["embedding", "all-reduce"] = job.config.padded_vocab_size(size) // size * language.hidden_size * _FP32
    return found


def _copied(job: TrainingJob, stage: int) -> int:
    """Trained parameters that every tensor-parallel rank holds and sees part of the sequence with."""
    layers, hidden = job.config.layers_per_stage(job.parallel), job.config.language.hidden_size
    norms = (2 * layers[stage] + (stage == len(layers) - 1)) * hidden if job.trains_language else 0
    return norms + (layers[stage] * job.lora.rank * hidden * len(job.lora.targets) if job.lora else 0)
