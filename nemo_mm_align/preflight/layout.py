"""Whether ranks, batches, model sizes and number format fit each other, by the same checks as the training's own."""

from __future__ import annotations

from collections.abc import Callable

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.arithmetic import (
    check_batches,
    check_packing,
    check_started_ranks,
    micro_batches_per_step,
    odd_fp8_widths,
    round_up,
    row_length_multiple,
)
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, ParallelConfig
from nemo_mm_align.preflight.finding import Finding, amber, green, red
from nemo_mm_align.preflight.job import Job


def check_layout(job: Job, world_size: int) -> list[Finding]:
    """All arithmetic of a training.

    Args:
        job: with a training configuration.
        world_size: ranks that take part now; 1 is a look ahead, for which the experiment's own number counts.
    """
    try:
        sizes, parallel, engine = job.sizes(), job.parallel(), job.engine()
        job.lora()
    except UserError as error:
        return [red("model", str(error), "correct the configuration")]
    planned = job.planned_world_size
    ranks = planned if world_size == 1 and planned else world_size
    findings = [_world(job, parallel, ranks, world_size), _sizes(sizes, parallel)]
    findings += _batches(job, sizes, parallel, engine, ranks) + _lengths(
        job, sizes, row_length_multiple(parallel, engine)
    )
    if engine.fp8:
        findings.append(_fp8(sizes, parallel))
    return findings


def _checked(title: str, check: Callable[[], str]) -> Finding:
    """Turn the message of a check that raises into a finding; its text holds the remedy already."""
    try:
        return green(title, check())
    except UserError as error:
        return red(title, str(error), "see above")


def _world(job: Job, parallel: ParallelConfig, ranks: int, here: int) -> Finding:
    def text() -> str:
        if here > 1:
            check_started_ranks(job.value("trainer", {}), here)
        data = parallel.data_parallel_size(ranks)
        tensor, pipeline = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
        return f"tensor {tensor} x pipeline {pipeline} x data {data} = {ranks}"

    return _checked("ranks", text)


def _sizes(sizes: LlavaConfig, parallel: ParallelConfig) -> Finding:
    def text() -> str:
        sizes.check(parallel)
        stages = sizes.layers_per_stage(parallel)
        heads = sizes.language.num_attention_heads // parallel.tensor_model_parallel_size
        return f"{sizes.name}: layers per stage {', '.join(map(str, stages))}; {heads} heads per tensor rank"

    return _checked("model", text)


def _batches(job: Job, sizes: LlavaConfig, parallel: ParallelConfig, engine: EngineConfig, ranks: int) -> list[Finding]:
    try:
        replicas = parallel.data_parallel_size(ranks)
    except UserError:
        return []  # said above
    if job.value("model.micro_batch_tokens") is not None:
        return [_checked("batches", lambda: _packed(job, parallel, engine, replicas)), *_row_budget(job, sizes)]
    whole, micro = int(job.value("model.global_batch_size", 1)), int(job.value("model.micro_batch_size", 1))
    stages = parallel.pipeline_model_parallel_size
    try:
        passes = micro_batches_per_step(whole, micro, replicas)
    except UserError as error:
        return [red("batches", str(error), "see above")]
    findings = [green("batches", f"global {whole} = micro {micro} x data {replicas} x {passes} passes")]
    if stages > 1 and passes < 4 * stages:
        idle = (stages - 1) / (passes + stages - 1)
        found = f"{passes} micro batches over {stages} pipeline stages: stages idle for {idle:.0%} of a step"
        findings.append(amber("pipeline", found, "fewer pipeline stages, or a larger model.global_batch_size"))
    return findings


def _packed(job: Job, parallel: ParallelConfig, engine: EngineConfig, replicas: int) -> str:
    """Batches of a budget of positions: how many passes a step takes, the data decide."""
    whole, tokens = int(job.value("model.global_batch_size", 1)), int(job.value("model.micro_batch_tokens"))
    check_batches(whole, None, replicas)
    check_packing(tokens, parallel, engine, replicas)
    return f"global {whole} over data {replicas} by their work, micro batches of up to {tokens:,} positions"


def _row_budget(job: Job, sizes: LlavaConfig) -> list[Finding]:
    """What a budget of positions has no room for, said before the data are read."""
    tokens, longest = int(job.value("model.micro_batch_tokens")), int(job.value("model.max_length", 0))
    if tokens <= sizes.tokens_per_image:
        found = (
            f"model.micro_batch_tokens={tokens} leaves no room beside the {sizes.tokens_per_image} tokens of one image"
        )
        return [red("packed rows", found, f"model.micro_batch_tokens={max(longest, 2 * sizes.tokens_per_image)}")]
    if tokens < longest:
        found = f"an example as long as model.max_length={longest} does not fit model.micro_batch_tokens={tokens}"
        return [amber("packed rows", found, "raise it unless all examples are shorter, their answers taken together")]
    return []


def _lengths(job: Job, sizes: LlavaConfig, multiple: int) -> list[Finding]:
    longest, positions = int(job.value("model.max_length", 0)), sizes.language.max_position_embeddings
    if longest > positions:
        found = f"model.max_length={longest}, but the model has {positions} positions"
        return [red("row length", found, f"model.max_length={positions}")]
    if longest <= sizes.tokens_per_image:
        found = f"model.max_length={longest} leaves no room beside the {sizes.tokens_per_image} tokens of one image"
        return [red("row length", found, f"model.max_length={min(positions, 2 * sizes.tokens_per_image)}")]
    padded = round_up(longest, multiple)
    if padded > positions:
        found = f"rows of {longest} are padded to {padded}, a multiple of {multiple}, past the model's {positions} positions"
        return [red("row length", found, f"model.max_length={longest // multiple * multiple}")]
    return [
        green("row length", f"up to {longest} (padded: {padded}) of {positions} positions, in multiples of {multiple}")
    ]


def _fp8(sizes: LlavaConfig, parallel: ParallelConfig) -> Finding:
    """Widths of the decoder's matrices."""
    odd = [f"{name}={width}" for name, width in odd_fp8_widths(sizes, parallel).items()]
    if odd:
        remedy = "a smaller model.tensor_model_parallel_size or precision=bf16"
        return red("FP8 sizes", f"no multiple of 16: {', '.join(odd)}", remedy)
    return green("FP8 sizes", "all widths are multiples of 16")
