"""The estimate as text: a table per stage and what else a user asks before starting a run."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_mm_align.capacity.estimate import Estimate
from nemo_mm_align.capacity.memory import StageMemory, key_value_bytes
from nemo_mm_align.capacity.operations import estimated_work
from nemo_mm_align.capacity.steptime import ASSUMED_LINK_SHARE
from nemo_mm_align.capacity.suggest import describe
from nemo_mm_align.core.units import GIB, gib

SAMPLED_ROWS = 32
_CACHE_LINE = 100  # bytes of one pair in the reference cache

_COLUMNS = (
    "stage", "layers", "parameters", "trained", "weights", "gradients", "optimizer", "activations", "workspace", "context",
    "peak", "free",
)  # fmt: skip


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _row(stage: StageMemory, found: Estimate) -> list[str]:
    sizes = (
        stage.weights,
        stage.gradients,
        stage.optimizer,
        stage.activations,
        stage.workspace,
        stage.context,
        stage.peak,
        found.gpu.memory - stage.peak,
    )
    counts = [str(stage.stage), str(stage.layers), f"{stage.parameters.total:,}", f"{stage.trained:,}"]
    return [*counts, *(f"{size / GIB:.2f}" for size in sizes)]


def _rows_of(found: Estimate) -> str:
    job = found.job
    flight = ", ".join(str(stage.in_flight) for stage in found.stages)
    text = (
        f"rows: {job.rows} x {job.row_length} tokens, {job.labelled} with a loss, {job.images} images per micro batch; "
        f"{job.micro_batches} micro batches per step, in flight: {flight}"
    )
    roles = job.recipe.samples.roles
    sharing = " and ".join(roles[: len(roles) - job.apart]) if len(roles) > 1 else f"{job.sequences} answers"
    return text + (f"; {sharing} share their prompt" if job.has_shared_prefix else "")


def _disk(found: Estimate) -> str:
    return (
        f"disk: {found.checkpoint_bytes / 1e9:.2f} GB per checkpoint, {found.disk_bytes / 1e9:.2f} GB for the "
        f"{found.job.keep_checkpoints} that are kept and the one being written"
    )


def _sampling(found: Estimate) -> str:
    job = found.job
    length = job.workload.length
    most = max(key_value_bytes(job, stage.stage, SAMPLED_ROWS, length) for stage in found.stages)
    return (
        f"sampling in this layout: {gib(most)} of keys and values per rank for {SAMPLED_ROWS} answers of up to "
        f"{length} tokens, beside the weights"
    )


def _time(found: Estimate) -> str:
    time, usual = found.time, found.job.usual
    utilisation = time.flops / (time.total * found.job.world_size * found.gpu.bf16_flops)
    return (
        f"rough time for rows of {usual.row_length:,} tokens, no promise: {time.total:.2f} s per step of "
        f"{time.flops / 1e15:.2f} PFLOP, micro batches of {estimated_work(usual).tokens:,.0f} tokens "
        f"(docs/CAPACITY.md says what was measured), {ASSUMED_LINK_SHARE:.0%} of the links: {time.compute:.2f} computing, "
        f"{time.tensor_parallel:.2f} TP sums, {time.pipeline:.2f} between stages, {time.bubble:.2f} pipeline bubble "
        f"({time.bubble / time.total:.0%}), {time.data_parallel:.2f} gradient sums, {time.update:.2f} update; "
        f"{utilisation:.0%} of the GPUs' rate overall"
    )


def render(found: Estimate) -> str:
    """Return the whole estimate; all sizes are per rank, in GiB, of the longest rows."""
    job = found.job
    lines = [
        f"{job.config.name}, {job.method}, {job.kind}, {job.engine.precision}, "
        f"{job.nodes} x {job.gpus_per_node} {found.gpu.name}: {describe(job)}",
        table([_COLUMNS, *(_row(stage, found) for stage in found.stages)]),
        _rows_of(found),
    ]
    if job.recipe.objective.needs_reference:
        lines.append(
            "reference: these weights before the first step, so no second copy; cached log-probs take "
            f"{_CACHE_LINE / 1000:.1f} MB on disk per 1,000 pairs"
        )
    lines += [_disk(found), _sampling(found), _time(found)]
    verdict = "fits" if found.fits else "does not fit"
    lines.append(
        f"{verdict}: {gib(found.peak)} at the worst moment, {gib(found.limit)} may be used (reserve "
        f"{found.reserve:.0%} of {found.gpu.memory / GIB:.2f})"
    )
    return "\n".join(lines) + "\n"
