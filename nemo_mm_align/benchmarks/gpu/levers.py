"""Levers that the project does not pull by itself: switched on for a case from outside, off again afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_mm_align.benchmarks.gpu import clock
from nemo_mm_align.benchmarks.gpu.records import Skipped
from nemo_mm_align.model import lora as lora_layers
from nemo_mm_align.model.llava import Llava

LEVERS = {
    "cudnn": "cuDNN's attention kernel allowed",
    "swiglu": "megatron-core's fused SwiGLU",
    "rope": "fused rotary positions",
    "lora": "adapters' output added within one product",
    "no dropout": "adapters without dropout",
}


@contextmanager
def pulled(model: Llava, names: Sequence[str]) -> Iterator[None]:
    """Pull levers for the length of a block; without ``cudnn`` its attention kernel is off.

    Raises:
        Skipped: a lever is not to be had with this version.
    """
    with ExitStack() as stack:
        stack.enter_context(cudnn_attention("cudnn" in names))
        if "swiglu" in names:
            stack.enter_context(_set(model.config, "bias_activation_fusion", True))
        if "rope" in names:
            stack.enter_context(_set(model.config, "apply_rope_fusion", True))
        if "lora" in names:
            stack.enter_context(_one_product())
        if "no dropout" in names:
            _drop_dropout(model, stack)
        yield


@contextmanager
def cudnn_attention(allowed: bool) -> Iterator[None]:
    """Allow or forbid cuDNN's attention, which plans anew for every shape, and restore what was before."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    if clock.cuda():
        torch.backends.cuda.enable_cudnn_sdp(allowed)
    try:
        yield
    finally:
        if clock.cuda():
            torch.backends.cuda.enable_cudnn_sdp(before)


@contextmanager
def _set(owner: Any, name: str, value: object) -> Iterator[None]:
    if not hasattr(owner, name):
        raise Skipped(f"{type(owner).__name__} has no {name} in this version")
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _drop_dropout(model: Llava, stack: ExitStack) -> None:
    for module in model.modules():
        settings = getattr(module, "lora", None)
        if settings is not None and hasattr(settings, "dropout"):
            stack.enter_context(_set(module, "lora", replace(settings, dropout=0.0)))


@contextmanager
def _one_product() -> Iterator[None]:
    column, row = (getattr(lora_layers, name, None) for name in ("_LoRAColumn", "_LoRARow"))
    if column is None or row is None:
        raise Skipped("the adapters' layers are not those that this lever knows")

    def column_forward(self: Any, input_SBH: Tensor) -> tuple[Tensor, Tensor | None]:
        output, bias = super(column, self).forward(input_SBH)
        adapters = self.adapters
        low = F.linear(self._dropped(input_SBH, parallel_input=False), torch.cat([a.a for a in adapters.values()]))
        rank, last = self.lora.rank, len(adapters) - 1
        wide = {name: F.pad(a.b, (i * rank, (last - i) * rank)).t() for i, (name, a) in enumerate(adapters.items())}
        return _added(output, low, self.join(wide), self.lora.scale), bias

    def row_forward(self: Any, input_SBH: Tensor) -> tuple[Tensor, Tensor | None]:
        output, bias = super(row, self).forward(input_SBH)
        (adapter,) = self.adapters.values()
        low = F.linear(self._dropped(input_SBH, parallel_input=True), adapter.a)
        return _added(output, low, adapter.b.t(), self.lora.scale), bias

    with _set(column, "forward", column_forward), _set(row, "forward", row_forward):
        yield


def _added(output: Tensor, low: Tensor, up: Tensor, scale: float) -> Tensor:
    return torch.addmm(output.flatten(0, 1), low.flatten(0, 1), up, alpha=scale).view_as(output)
