"""Levers of ``model.levers``, and others of the libraries beneath: pulled for a case, let go of afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, get_args

import torch

from nemo_mm_align.benchmarks.gpu import clock
from nemo_mm_align.benchmarks.gpu.records import Skipped
from nemo_mm_align.model.config import Lever
from nemo_mm_align.model.llava import Llava

SETTINGS = get_args(Lever)
"""Of ``model.levers``; see `Levers`."""

OTHERS = {
    "cudnn": "cuDNN's attention kernel allowed",
    "compiled swiglu": "megatron-core's own fusion, to compare `mlp` with",
    "no dropout": "adapters without dropout",
}


@contextmanager
def pulled(model: Llava, names: Sequence[str]) -> Iterator[None]:
    """Pull levers for a block, beside those that the model was built with; without ``cudnn`` its attention kernel is off.

    Args:
        names: of `SETTINGS` and `OTHERS`.

    Raises:
        Skipped: a lever is not to be had with this version.
    """
    with ExitStack() as stack:
        stack.enter_context(cudnn_attention("cudnn" in names))
        stack.enter_context(_set(model.config, "levers", model.config.levers | set(SETTINGS) & set(names)))
        if "compiled swiglu" in names:
            stack.enter_context(_set(model.config, "bias_activation_fusion", True))
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
