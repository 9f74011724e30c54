"""Arithmetic of rows, batches and ranks that training, estimator and doctor have in common; errors name field and remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, ParallelConfig

_FP8_MULTIPLE = 16
_FP8_SHARE = {"fp8_blockwise": 128}
"""TransformerEngine gathers a sequence in FP8 only from shares that can be quantised: whole blocks, else 8 positions."""


def row_length_multiple(parallel: ParallelConfig, engine: EngineConfig) -> int:
    """What row lengths are multiples of.

    FP8 matrix products want 16 positions. Under sequence parallelism a row is cut into TP equal shares, which are quantised
    one by one.
    """
    tensor = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
    if not engine.fp8:
        return tensor
    share = _FP8_SHARE.get(engine.precision, 8) if tensor > 1 else 1
    return math.lcm(_FP8_MULTIPLE, tensor * share)


def odd_fp8_widths(config: LlavaConfig, parallel: ParallelConfig) -> dict[str, int]:
    """Widths of the decoder's matrices on one rank that FP8 products cannot take: those that are no multiple of 16.

    Adapters, projector and vision tower do not compute in FP8.
    """
    tensor, language = parallel.tensor_model_parallel_size, config.language
    widths = {
        "language.hidden_size": language.hidden_size,
        "language.ffn_hidden_size / TP": language.ffn_hidden_size // tensor,
        "query width / TP": language.query_width // tensor,
        "key width / TP": language.key_width // tensor,
    }
    return {name: width for name, width in widths.items() if width % _FP8_MULTIPLE}


CHUNK_LOGITS = 1 << 22
"""Logits of a chunk, at least: 16 MiB in fp32, above which a product gains nothing from more rows."""


def chunk_rows(positions: int, hidden: int, columns: float) -> int:
    """Positions of a chunk of logits: as many as have no more of them than all positions have hidden units, or `CHUNK_LOGITS`."""
    return max(1, int(max(CHUNK_LOGITS, positions * hidden) // columns))


def round_up(tokens: int, multiple: int) -> int:
    """The smallest multiple that is not below `tokens`: the length to which rows are padded."""
    return -(-tokens // multiple) * multiple


def round_down(tokens: int, multiple: int) -> int:
    """The largest multiple that is not above `tokens`."""
    return tokens // multiple * multiple


def micro_batches_per_step(global_batch_size: int, micro_batch_size: int, data_parallel_size: int) -> int:
    """Forward passes of one rank per optimizer step; raise `UserError` where the global batch does not divide."""
    per_pass = micro_batch_size * data_parallel_size
    if global_batch_size < 1 or micro_batch_size < 1 or global_batch_size % per_pass:
        raise UserError(
            f"model.global_batch_size={global_batch_size} is not a multiple of model.micro_batch_size="
            f"{micro_batch_size} x data-parallel size {data_parallel_size} = {per_pass}. Change one of the two sizes."
        )
    return global_batch_size // per_pass


def check_batches(global_batch_size: int, micro_batch_size: int | None, data_parallel_size: int) -> None:
    """Raise `UserError` where a global batch cannot be divided among replicas.

    Args:
        micro_batch_size: None where micro batches have no fixed number of samples: replicas need not have equally many.
    """
    if micro_batch_size is not None:
        micro_batches_per_step(global_batch_size, micro_batch_size, data_parallel_size)
    elif global_batch_size < data_parallel_size:
        raise UserError(
            f"model.global_batch_size={global_batch_size} is below the data-parallel size {data_parallel_size}: some replicas "
            "would have no sample. Raise it, or use fewer ranks."
        )


def check_packing(
    micro_batch_tokens: int, parallel: ParallelConfig, engine: EngineConfig, data_parallel_size: int
) -> None:
    """Raise `UserError` where a layout or number format has no use for rows of so many positions."""
    multiple = row_length_multiple(parallel, engine)
    if micro_batch_tokens < multiple:
        raise UserError(
            f"model.micro_batch_tokens={micro_batch_tokens}: row lengths are multiples of {multiple} with this layout and "
            "precision. Set it to at least the positions of the longest sample, all its sequences counted."
        )
    if engine.precision == "fp8_delayed" and data_parallel_size > 1:
        raise UserError(
            f"model.micro_batch_tokens={micro_batch_tokens} with precision=fp8_delayed: replicas exchange scales in every micro "
            "batch, but have not equally many of them, and would wait for each other for ever. Take "
            "precision=fp8_tensorwise or fp8_blockwise, or micro batches of model.micro_batch_size samples "
            "(model.micro_batch_tokens=null)."
        )


def check_training(
    config: LlavaConfig,
    parallel: ParallelConfig,
    engine: EngineConfig,
    *,
    world_size: int,
    micro_batch_size: int,
    micro_batch_tokens: int | None,
    global_batch_size: int,
    max_length: int,
) -> None:
    """Check sizes, layout, number format, batches and row length against each other.

    Args:
        micro_batch_size: counts for nothing where there are `micro_batch_tokens`.

    Raises:
        UserError: what does not fit, with its field and a remedy.
    """
    config.check(parallel)
    replicas = parallel.data_parallel_size(world_size)
    check_batches(global_batch_size, micro_batch_size if micro_batch_tokens is None else None, replicas)
    if micro_batch_tokens is not None:
        check_packing(micro_batch_tokens, parallel, engine, replicas)
    longest = config.language.max_position_embeddings
    if max_length > longest:
        raise UserError(
            f"model.max_length={max_length}: the model has {longest} positions. Set it to at most {longest}."
        )


def check_started_ranks(trainer: Mapping[str, Any], started: int) -> None:
    """Raise `UserError` where ``trainer.num_nodes`` x ``trainer.devices`` are given and are not the ranks that started."""
    nodes, devices = trainer.get("num_nodes"), trainer.get("devices")
    if nodes and devices and nodes * devices != started:
        raise UserError(
            f"trainer.num_nodes={nodes} x trainer.devices={devices} = {nodes * devices} ranks, but {started} were started. "
            "Start that many, or set both to what you start (null: whatever is started) and see with scripts/estimate.py "
            "whether the layout still fits."
        )


def planned_ranks(trainer: Mapping[str, Any]) -> tuple[int, int] | None:
    """Nodes and processes per node that a configuration is made for, by default one node; ``None`` if it does not say."""
    nodes, devices = trainer.get("num_nodes"), trainer.get("devices")
    return (int(nodes or 1), devices) if isinstance(devices, int) and devices else None
