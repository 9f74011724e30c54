"""Bytes that this process gives to collectives and sends, counted where torch hands them to the backend of a group."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from megatron.core import parallel_state
from torch import Tensor
from torch.distributed import ProcessGroup

from nemo_mm_align.capacity.communication import Group, Kind, Traffic

_METHODS: dict[str, tuple[Kind, int]] = {
    "allreduce": ("all-reduce", 0),
    "allreduce_coalesced": ("all-reduce", 0),
    **dict.fromkeys(("all_gather_single", "all_gather_single_coalesced"), ("all-gather", 0)),
    **dict.fromkeys(("_allgather_base", "allgather_into_tensor_coalesced", "allgather"), ("all-gather", 0)),
    **dict.fromkeys(("reduce_scatter_single", "reduce_scatter_single_coalesced"), ("reduce-scatter", 1)),
    **dict.fromkeys(
        ("_reduce_scatter_base", "reduce_scatter_tensor_coalesced", "reduce_scatter"), ("reduce-scatter", 1)
    ),
    "send": ("send", 0),
}
"""Of torch's process groups, under the names of its releases: kind, and which argument holds the whole tensor."""


@contextmanager
def counted_traffic() -> Iterator[Traffic]:
    """Yield the bytes that are communicated in the block, by group and kind, as `capacity.communication` counts them.

    Groups of one rank communicate nothing. Integers, float64 and single numbers are no part of it.
    """
    found: Traffic = Counter()
    originals = {name: method for name, method in vars(ProcessGroup).items() if name in _METHODS}
    names = _group_names()
    for name in originals:
        setattr(ProcessGroup, name, _counting(getattr(ProcessGroup, name), *_METHODS[name], names, found))
    try:
        yield found
    finally:
        for name, original in originals.items():
            setattr(ProcessGroup, name, original)


def _group_names() -> dict[str, Group]:
    """Torch's names of megatron-core's groups, and ours."""
    groups = {
        "tensor": [parallel_state.get_tensor_model_parallel_group()],
        "pipeline": [parallel_state.get_pipeline_model_parallel_group()],
        "data": [parallel_state.get_data_parallel_group(with_context_parallel=cp) for cp in (False, True)],
        "embedding": [parallel_state.get_embedding_group(check_initialized=False)],
    }
    return {each.group_name: cast(Group, name) for name, found in groups.items() for each in found if each is not None}


def _counting(
    original: Callable[..., Any], kind: Kind, whole: int, names: dict[str, Group], found: Traffic
) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(group: ProcessGroup, *args: Any, **kwargs: Any) -> Any:
        size = sum(tensor.nbytes for tensor in _tensors(args[whole]) if _counts(tensor))
        if size and group.size() > 1:
            found["pipeline" if kind == "send" else names[group.group_name], kind] += size
        return original(group, *args, **kwargs)

    return method


def _tensors(argument: Any) -> Iterable[Tensor]:
    if isinstance(argument, Tensor):
        return [argument]
    return [tensor for item in argument for tensor in _tensors(item)]


def _counts(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float64 and tensor.numel() > 1
