"""Instruments for memory: tensors saved for backward, and all tensors alive at the worst moment."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storages(tensors: Iterable[Tensor]) -> set[int]:
    """Addresses of the storages behind tensors."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


class SavedTensors:
    """Counts what forward passes within the block leave for backward passes, every storage once.

    Args:
        excluded: tensors that are there anyway (parameters, gradient buffers).
    """

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        self._excluded = storages(excluded)
        self._seen: dict[int, int] = {}
        self.shapes: list[tuple[tuple[int, ...], str, int]] = []
        self._kept: list[Tensor] = []  # alive, so that no address is given out twice
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        recomputing = torch._C._current_graph_task_id() != -1  # within a backward pass
        if not recomputing and storage.data_ptr() not in self._excluded | self._seen.keys():
            self._seen[storage.data_ptr()] = storage.nbytes()
            self.shapes.append((tuple(tensor.shape), str(tensor.dtype), storage.nbytes()))
            self._kept.append(tensor)
        return tensor

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        self._kept.clear()

    @property
    def bytes(self) -> int:
        """Bytes of all saved storages."""
        return sum(self._seen.values())


class PeakMemory(TorchDispatchMode):
    """Follows every tensor that is made within the block and remembers the most bytes that were alive at once.

    It stands in for `torch.cuda.max_memory_allocated` on a CPU; what a kernel allocates for itself is not seen.
    """

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        super().__init__()
        self._alive: dict[int, Any] = {}
        self._excluded = storages(excluded)
        self.current = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive or not size or storage.data_ptr() in self._excluded:
            return
        self._alive[key] = weakref.ref(storage, lambda _, key=key, size=size: self._forget(key, size))
        self.current += size
        self.peak = max(self.peak, self.current)

    def _forget(self, key: int, size: int) -> None:
        if self._alive.pop(key, None) is not None:
            self.current -= size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
