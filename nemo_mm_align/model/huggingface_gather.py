"""Bringing the parts of each tensor from their ranks to rank 0, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from nemo_mm_align.model.huggingface_names import Piece
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.model.lora import Adapter

_BLOCK_BYTES = 64 * 2**20

Rows = Callable[[Piece, int, int], Tensor]
"""(piece, start, stop) -> rows start to stop - 1 of this rank's part of the tensor."""


def tensor_parallel_place() -> tuple[int, int]:
    """This rank's place in its tensor-parallel group, and the group's size."""
    return (
        int(parallel_state.get_tensor_model_parallel_rank()),
        int(parallel_state.get_tensor_model_parallel_world_size()),
    )


def rows_of(tensors: Mapping[str, Tensor]) -> Rows:
    """Rows from tensors in the shape of the model's parameters, by parameter name: weights, or their gradients."""
    rank, size = tensor_parallel_place()

    def rows(piece: Piece, start: int, stop: int) -> Tensor:
        part = piece.of(tensors[piece.parameter], rank, size)
        return part.reshape(piece.local_shape(rank, size))[start:stop]

    return rows


def merged_rows(model: Llava) -> Rows:
    """Rows of the model's weights with the adapters added in fp32: W + scale * B A."""
    assert model.lora is not None
    weights, scale = rows_of(dict(model.named_parameters())), model.lora.scale
    adapters = {name: module for name, module in model.named_modules() if isinstance(module, Adapter)}

    def rows(piece: Piece, start: int, stop: int) -> Tensor:
        block = weights(piece, start, stop)
        adapter = adapters.get(piece.adapter or "")
        if adapter is None:
            return block
        return torch.addmm(block.float(), adapter.b[start:stop].float(), adapter.a.float(), alpha=scale)

    return rows


@torch.no_grad()
def stream_to_first_rank(
    pieces: Sequence[Piece], dtypes: Sequence[torch.dtype], rows: Rows
) -> Iterator[tuple[int, Tensor]]:
    """Yield, on rank 0, (index of the piece, next block of its rows) in order; other ranks send and yield nothing.

    All ranks must iterate to the end, with the same pieces. A block is at most about 64 MiB.
    """
    size = tensor_parallel_place()[1]
    sources, me = _sources(), dist.get_rank()
    for index, (piece, dtype) in enumerate(zip(pieces, dtypes, strict=True)):
        for owners, start, stop in _blocks(piece, size, dtype.itemsize):
            parts = []
            for owner in owners:
                source = sources[piece.stage, owner]
                shape = (stop - start, *piece.local_shape(owner, size)[1:])
                if me == source:
                    part = rows(piece, start, stop).to(dtype).contiguous()
                    parts.append(part if source == 0 else _send(part))
                elif me == 0:
                    parts.append(_receive(shape, dtype, source))
            if me == 0:
                yield index, parts[0] if len(parts) == 1 else torch.cat(parts, dim=piece.split or 0)


def _sources() -> dict[tuple[int, int], int]:
    """Global rank of the first replica's (stage, tensor-parallel rank)."""
    own = (
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_rank(),
    )
    places: list[tuple[int, int, int]] = [own] * dist.get_world_size()
    dist.all_gather_object(places, own)
    return {(stage, tensor): rank for rank, (replica, stage, tensor) in enumerate(places) if replica == 0}


def _blocks(piece: Piece, size: int, itemsize: int) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Yield (tensor-parallel ranks that hold a part of the block, first row, last row + 1), rows counted locally."""
    together = tuple(range(size)) if piece.split else (0,)
    owners = [(rank,) for rank in range(size)] if piece.split == 0 else [together]
    step = max(1, _BLOCK_BYTES // (prod(piece.shape[1:]) * itemsize))
    for group in owners:
        count = piece.local_shape(group[0], size)[0]
        for start in range(0, count, step):
            yield group, start, min(start + step, count)


def _send(part: Tensor) -> Tensor:
    dist.send(part.reshape(-1).view(torch.uint8), dst=0)
    return part


def _receive(shape: tuple[int, ...], dtype: torch.dtype, source: int) -> Tensor:
    buffer = torch.empty(prod(shape) * dtype.itemsize, dtype=torch.uint8, device=torch.cuda.current_device())
    dist.recv(buffer, src=source)
    return buffer.view(dtype).view(shape)
