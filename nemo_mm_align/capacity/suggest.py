"""Choose a layout: every one that fits is timed roughly, the quickest wins, and of nearly equal ones the simplest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from nemo_mm_align.capacity.estimate import RESERVE, Estimate, check_number_format, estimate_job
from nemo_mm_align.capacity.gpus import GPU
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.operations import computed_flops
from nemo_mm_align.capacity.steptime import StepTime
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.units import GIB, gib
from nemo_mm_align.model.config import ParallelConfig

_MICRO_BATCHES = (1, 2, 4, 8)
_RECOMPUTE = ("none", "selective", "full")
_NEARLY = 1.10  # rough times this close are taken as equal
_MOST_GPUS = 1024
_MOST_STAGES = 16


@dataclass(frozen=True)
class Suggestion:
    """A layout with its estimate and the reason for it in words."""

    estimate: Estimate
    time: StepTime
    reason: str

    @property
    def job(self) -> TrainingJob:
        """The job with the chosen layout."""
        return self.estimate.job


def balance_stages(job: TrainingJob, pipeline: int) -> ParallelConfig | None:
    """Decoder layers per stage such that the slowest is as quick as can be: the first one also runs the tower."""
    layers = job.config.language.num_layers
    even = -(-layers // pipeline)
    near = [None, *range(max(1, even - 4), min(layers, even + 1) + 1)]
    splits: list[tuple[float, int, ParallelConfig]] = []
    for first in near:
        for last in near:
            layout = replace(
                job.parallel,
                pipeline_model_parallel_size=pipeline,
                num_layers_in_first_pipeline_stage=first,
                num_layers_in_last_pipeline_stage=last,
            )
            try:
                counts = job.config.layers_per_stage(layout)
            except UserError:
                continue
            candidate = replace(job.usual, parallel=layout)
            slowest = max(sum(computed_flops(candidate, stage)) for stage in {0, 1, pipeline - 1})
            splits.append((slowest, max(counts) - min(counts), layout))
    quick = [split for split in splits if split[0] <= 1.001 * min(splits, key=lambda split: split[0])[0]]
    return min(quick, key=lambda split: split[1])[2] if quick else None


def _layouts(job: TrainingJob, gpu: GPU) -> Iterator[TrainingJob]:
    """Tensor x pipeline sizes that divide the ranks and the model; TP stays inside a node."""
    tensor = 1
    while tensor <= min(job.gpus_per_node, gpu.per_node):
        pipeline = 1
        while tensor * pipeline <= job.world_size and pipeline <= min(_MOST_STAGES, job.config.language.num_layers):
            layout = ParallelConfig(tensor_model_parallel_size=tensor, sequence_parallel=tensor > 1)
            candidate = replace(job, parallel=layout)
            split = balance_stages(candidate, pipeline) if pipeline > 1 else layout
            if split is not None and job.world_size % (tensor * pipeline) == 0:
                yield replace(candidate, parallel=split)
            pipeline *= 2
        tensor *= 2


def _settings(job: TrainingJob) -> Iterator[TrainingJob]:
    """From the quickest to the leanest: no recomputation first, the optimizer whole first."""
    spread = (False, True) if job.data_parallel_size > 1 else (False,)
    for recompute in _RECOMPUTE:
        for distributed in spread:
            engine = replace(job.engine, recompute=recompute)
            yield replace(job, engine=engine, distributed_optimizer=distributed)


def _candidates(job: TrainingJob, gpu: GPU, reserve: float) -> tuple[list[Estimate], Estimate | None]:
    """For each layout and micro batch the first settings that fit; and the leanest of all that do not."""
    fitting: list[Estimate] = []
    leanest: Estimate | None = None
    for layout in _layouts(job, gpu):
        for samples in _MICRO_BATCHES if job.micro_batch_tokens is None else (job.micro_batch_size,):
            sized = replace(layout, micro_batch_size=samples)
            try:
                sized.check()
            except UserError:
                continue
            for candidate in _settings(sized):
                found = estimate_job(candidate, gpu, reserve)
                if found.fits:
                    fitting.append(found)
                    break
                if leanest is None or found.peak < leanest.peak:
                    leanest = found
            else:
                break  # more rows need more still
    return fitting, leanest


def _simplicity(found: Estimate) -> tuple[int, ...]:
    job = found.job
    return (
        job.parallel.pipeline_model_parallel_size,
        job.parallel.tensor_model_parallel_size,
        _RECOMPUTE.index(job.engine.recompute),
        int(job.distributed_optimizer),
        job.micro_batch_size,
    )


def suggest(job: TrainingJob, gpu: GPU, reserve: float = RESERVE, explain: bool = True) -> Suggestion:
    """Return the layout for `job.nodes` x `job.gpus_per_node` GPUs of a type.

    Tensor parallelism (always with sequence parallelism) stays inside a node; pipeline stages get uneven layers because
    of the tower; micro batch (unless it has a budget of positions), recomputation and the distributed optimizer are chosen as
    well. Sizes, method, row shape and global batch are the job's. Without `explain`, an error does not try how many nodes
    would do.

    Raises:
        UserError: nothing fits; the message says how much is missing and how many nodes would do.
    """
    check_number_format(job, gpu)
    fitting, leanest = _candidates(job, gpu, reserve)
    if not fitting:
        raise UserError(_nothing_fits(job, gpu, reserve, leanest, explain))
    timed = [(found.time.total, found) for found in fitting]
    quickest = min(seconds for seconds, _ in timed)
    chosen = min((found for seconds, found in timed if seconds <= quickest * _NEARLY), key=_simplicity)
    return Suggestion(chosen, chosen.time, _reason(chosen, fitting))


def _nothing_fits(job: TrainingJob, gpu: GPU, reserve: float, leanest: Estimate | None, explain: bool) -> str:
    where = f"{job.nodes} x {job.gpus_per_node} {gpu.name}"
    if leanest is None:
        return (
            f"{where}: no layout divides model.global_batch_size={job.global_batch_size} and the model's heads. Change the "
            "global batch size or the number of nodes."
        )
    text = (
        f"{where}: nothing fits. The leanest layout ({describe(leanest.job)}) needs {gib(leanest.peak, 1)} per GPU, "
        f"{gib(leanest.peak - leanest.limit, 1)} more than the {gib(leanest.limit, 1)} that a reserve of {reserve:.0%} leaves."
    )
    remedy = "use GPUs with more memory, LoRA, or a smaller max_length."
    for more in _larger(job, gpu) if explain else ():
        if _candidates(more, gpu, reserve)[0]:
            return f"{text} It fits on {more.nodes} x {more.gpus_per_node} of them; or {remedy}"
    return f"{text} More of them alone do not help: {remedy}" if explain else text


def _larger(job: TrainingJob, gpu: GPU) -> Iterator[TrainingJob]:
    """The job on twice as many GPUs again and again: first the whole node, then more nodes."""
    while job.world_size < _MOST_GPUS:
        wider = job.gpus_per_node * 2 <= gpu.per_node
        job = replace(job, gpus_per_node=job.gpus_per_node * 2) if wider else replace(job, nodes=job.nodes * 2)
        yield job


def describe(job: TrainingJob) -> str:
    """A layout in short, for example ``TP2+SP PP2 (18+22) DP4, micro batch 1, full recomputation``."""
    parallel = job.parallel
    parts = [f"TP{parallel.tensor_model_parallel_size}{'+SP' if parallel.sequence_parallel else ''}"]
    if parallel.pipeline_model_parallel_size > 1:
        layers = "+".join(map(str, _runs(job.config.layers_per_stage(parallel))))
        parts.append(f"PP{parallel.pipeline_model_parallel_size} ({layers})")
    parts.append(f"DP{job.data_parallel_size}")
    tokens = job.micro_batch_tokens
    text = f"{' '.join(parts)}, micro batch {job.micro_batch_size if tokens is None else f'of {tokens:,} positions'}"
    if job.engine.recompute != "none":
        text += f", {job.engine.recompute} recomputation"
    return text + (", distributed optimizer" if job.distributed_optimizer else "")


def _runs(layers: list[int]) -> list[str]:
    """Layers per stage, equal ones in the middle as ``6x10``."""
    if len(layers) <= 4:
        return [str(count) for count in layers]
    return [str(layers[0]), f"{len(layers) - 2}x{layers[1]}", str(layers[-1])]


def _reason(chosen: Estimate, fitting: list[Estimate]) -> str:
    """Say what was weighed: the free memory, and what the layouts with less splitting would have cost."""
    job, time = chosen.job, chosen.time
    text = (
        f"{chosen.peak / GIB:.0f} of {gib(chosen.gpu.memory, 0)}; of a step's rough {time.total:.1f} s "
        f"{time.tensor_parallel / time.total:.0%} are TP sums, {time.bubble / time.total:.0%} pipeline bubble, "
        f"{time.data_parallel / time.total:.0%} gradient sums"
    )
    split = job.parallel.tensor_model_parallel_size * job.parallel.pipeline_model_parallel_size
    simpler = [found for found in fitting if _split(found) < split]
    if simpler:
        best = min(simpler, key=lambda found: found.time.total)
        if best.time.total <= time.total * _NEARLY:
            return f"{text}; {describe(best.job)} fits too and takes about as long"
        return f"{text}; {describe(best.job)} fits too, but takes {best.time.total / time.total:.2f} times as long"
    if split > 1:
        return f"{text}; less splitting does not fit"
    return f"{text}; one GPU holds the model, so nothing is split"


def _split(found: Estimate) -> int:
    parallel = found.job.parallel
    return parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
