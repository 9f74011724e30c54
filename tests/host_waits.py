"""An instrument that counts, on a CPU, where code would make the host wait for a GPU."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READ = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy}
_ASK = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.masked_scatter_backward.default,
    torch.ops.aten.equal.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.repeat_interleave.Tensor,
}
_INDEX = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


def _tensors(*values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


class HostWaits:
    """Collects every question to the "device" within the block, in backward passes too, as the line that asked.

    There is no device here, so it is told apart by how a tensor came to be: made without naming a device, read back with
    ``cpu()``, or computed from such tensors alone, it is the host's; everything else is the device's.

    Args:
        host: tensors that lie on the host to begin with.
    """

    def __init__(self, host: Iterable[Tensor] = ()) -> None:
        self.found: list[str] = []
        self._host: dict[int, Tensor] = {}  # alive, so that no storage is taken for another
        for tensor in host:
            self._belongs_to_host(tensor)
        self._modes = (_Functions(self), _Operations(self))

    def _belongs_to_host(self, tensor: Tensor) -> None:
        self._host[tensor.untyped_storage()._cdata] = tensor

    def _on_device(self, tensors: Iterable[Tensor]) -> bool:
        # States of random generators are bytes, and on the host whatever they generate for.
        return any(t.dtype != torch.uint8 and t.untyped_storage()._cdata not in self._host for t in tensors)

    def ask(self, what: str) -> None:
        """Note a question, with the lines of this project that led to it."""
        lines = [frame for frame in traceback.extract_stack() if "host_waits" not in frame.filename]
        asked = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(lines[-6:]))
        self.found.append(f"{what} at {asked}")

    def __enter__(self) -> Self:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Functions(TorchFunctionMode):
    """Sees calls as they are written: which tensors name no device, and what is read back."""

    def __init__(self, waits: HostWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors(args, kwargs)
        if func in _READ and self.waits._on_device(given):
            self.waits.ask(func.__name__)
        result = func(*args, **kwargs)
        if func is torch.Tensor.cpu and isinstance(result, Tensor):
            result = result.clone()  # the same tensor here, another one where there is a device
            self.waits._belongs_to_host(result)
        elif not self.waits._on_device(given) and kwargs.get("device") is None and func is not torch.Tensor.to:
            for tensor in _tensors(result):
                self.waits._belongs_to_host(tensor)
        return result


class _Operations(TorchDispatchMode):
    """Sees what is computed, backward passes included: whose result the host needs in order to go on."""

    def __init__(self, waits: HostWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asks = func in _ASK or (func in _INDEX and self._by_mask(args))
        if asks and self.waits._on_device(_tensors(args)):
            self.waits.ask(str(func))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _by_mask(args: Any) -> bool:
        """Whether an index is a mask, whose places must be counted; writing one value wherever it is true needs none."""
        mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])
        return mask and not (len(args) > 2 and args[2].numel() == 1)
