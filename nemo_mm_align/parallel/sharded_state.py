"""What a checkpoint holds of a model and its optimizer: every tensor with its place in the whole, none of them copied.

megatron-core cuts a gated MLP's first weight, half of a model, into gate and up, which are views of it. Its writer clones
views that stand in a CPU's memory, since `torch.save` would write the whole storage behind them; after reading, it joins the
two in a third tensor. Here the parts get storages of their own over the same memory before a save, and after a load,
which goes straight into the parts, their whole is handed on as it is.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, apply_factories
from megatron.core.dist_checkpointing.serialization import load_sharded_metadata
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import runtime

_ADAPTER, _PROJECTOR, _HEAD, _EXTRA = ".adapters.", "projector.", "head.", "_extra_state"


def model_entries(model: Llava, adapted: bool) -> dict[str, Any]:
    """The tensors of a LoRA checkpoint (adapters, projector and head), or of a complete one (all but adapters).

    TransformerEngine's extra states hold something in FP8 alone; without them the same checkpoint opens with both kinds of
    kernels.
    """
    sharded = model.sharded_state_dict()
    if adapted:
        return {
            name: value for name, value in sharded.items() if _ADAPTER in name or name.startswith((_PROJECTOR, _HEAD))
        }
    return {
        name: value
        for name, value in sharded.items()
        if _ADAPTER not in name and (model.engine.fp8 or not name.endswith(_EXTRA))
    }


def without_head(entries: dict[str, Any]) -> dict[str, Any]:
    """Leave out a head, where what is read has none or another."""
    return {name: value for name, value in entries.items() if not name.startswith(_HEAD)}


def without_absent_extra_states(entries: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    """Leave out extra states that a checkpoint lacks, as one from bf16 does: FP8 then starts with fresh scales.

    Args:
        entries: what is to be read of the model.
        folder: the checkpoint's state.
    """
    objects = {name: value for name, value in entries.items() if name.endswith(_EXTRA)}
    if not objects:
        return entries
    stored = load_sharded_metadata(str(folder))
    absent = {name for name, value in objects.items() if value.unique_key not in stored}
    return {name: value for name, value in entries.items() if name not in absent}


def state_to_save(model: Llava, optimizer: MegatronOptimizer | None, adapted: bool) -> dict[str, Any]:
    """Everything that goes through megatron-core's writer, as tensors that it need not clone."""
    state = _sharded(model, optimizer, adapted, is_loading=False)
    apply_factories(state)
    dict_list_map_inplace(_over_its_own_memory, state)
    return state


def state_to_load(model: Llava, optimizer: MegatronOptimizer | None, adapted: bool) -> dict[str, Any]:
    """Everything that is read, with the memory that it is read into."""
    state = _sharded(model, optimizer, adapted, is_loading=True)
    dict_list_map_inplace(_joined_in_place, state)
    return state


def _sharded(model: Llava, optimizer: MegatronOptimizer | None, adapted: bool, is_loading: bool) -> dict[str, Any]:
    state: dict[str, Any] = {"model": model_entries(model, adapted)}
    if optimizer is not None:
        metadata = {
            "distrib_optim_sharding_type": "fully_reshardable",
            "distrib_optim_fully_reshardable_mem_efficient": False,
        }
        state["optimizer"] = optimizer.sharded_state_dict(
            model_entries(model, adapted), is_loading=is_loading, metadata=metadata
        )
    return state


def _over_its_own_memory(entry: Any) -> Any:
    if isinstance(entry, ShardedTensor) and entry.data is not None and entry.data.device.type == "cpu":
        entry.data = own_storage(entry.data)
    return entry


def own_storage(tensor: Tensor) -> Tensor:
    """The same numbers in the same memory, [...] as given, with a storage that ends where the tensor ends.

    A tensor with gaps between its numbers is returned unchanged.
    """
    tensor = tensor.detach()
    storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
    if storage.nbytes() == size or not tensor.is_contiguous():
        return tensor
    start = tensor.storage_offset() * tensor.element_size()
    return torch.empty(0, dtype=tensor.dtype).set_(storage[start : start + size], 0, tensor.shape, tensor.stride())


def _joined_in_place(entry: Any) -> Any:
    if not isinstance(entry, ShardedTensorFactory):
        return entry
    whole, join = entry.data, entry.merge_fn

    def joined(parts: Any) -> Any:
        return whole if _fill(parts, whole) else join(parts)

    return dataclasses.replace(entry, merge_fn=joined)


def _fill(parts: Any, whole: Tensor) -> bool:
    """Whether `parts` are all of the memory of `whole`, which makes joining them needless."""
    if not isinstance(parts, list) or not all(isinstance(part, Tensor) for part in parts):
        return False
    place = whole.untyped_storage().data_ptr()
    inside = all(part.untyped_storage().data_ptr() == place for part in parts)
    return inside and sum(part.numel() for part in parts) == whole.numel()


def bytes_to_write(state: Any) -> int:
    """Bytes of `state_to_save` that all ranks together will write."""
    total = torch.tensor(float(_own_bytes(state)), dtype=torch.float64, device=runtime.device())
    torch.distributed.all_reduce(total)
    return int(total)


def _own_bytes(value: Any) -> int:
    if isinstance(value, dict | list):
        return sum(_own_bytes(item) for item in (value.values() if isinstance(value, dict) else value))
    if isinstance(value, ShardedTensor) and value.replica_id not in (0, (0, 0, 0)):
        return 0
    data = getattr(value, "data", None)
    return data.numel() * data.element_size() if isinstance(data, Tensor) else 0
