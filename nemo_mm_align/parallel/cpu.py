"""megatron-core on a machine without a GPU, over gloo. Does nothing where CUDA is available.

megatron-core 0.16 names CUDA in places that no option reaches: the pipeline schedules allocate on "cuda", the optimizer
compares type names with "torch.cuda.FloatTensor", the RNG tracker keeps CUDA generator states. Each entry below maps one
such place to its CPU counterpart; nothing else of torch or megatron-core is touched.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

_CPU = torch.device("cpu")


def _cuda_means_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def wrapped(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = _CPU
        return factory(*args, **kwargs)

    return wrapped


def _is_installed() -> bool:
    return getattr(torch.cuda.current_device, "__module__", "") == __name__


def _current_device() -> torch.device:
    return _CPU


def _no_other_generator_complaint(record: logging.LogRecord) -> bool:
    # With the CPU generator standing in for CUDA's, megatron-core's tracker warns at every dropout: expected here.
    return "CPU RNG state changed within GPU RNG context" not in record.getMessage()


def install() -> None:
    """Make megatron-core run on the CPU. Call once, before building any megatron-core object; idempotent."""
    if torch.cuda.is_available() or _is_installed():
        return
    torch.cuda.current_device = _current_device  # type: ignore[assignment]
    torch.cuda.synchronize = lambda device=None: None
    for name in ("zeros", "ones", "tensor", "empty"):
        setattr(torch, name, _cuda_means_cpu(getattr(torch, name)))
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign, assignment]
    _report_cuda_tensor_types()
    _map_generators()
    _keep_lone_ranks_to_themselves()
    _take_optimizers_that_need_no_gpu()


def _report_cuda_tensor_types() -> None:
    tensor_type = torch.Tensor.type

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = tensor_type(self, *args, **kwargs)
        if not isinstance(result, str) or result.startswith("torch.cuda."):  # a mode of torch's may call this twice
            return result
        return result.replace("torch.", "torch.cuda.", 1)

    torch.Tensor.type = type_  # type: ignore[method-assign, assignment]


def _map_generators() -> None:
    from megatron.core.tensor_parallel import random as mcore_random

    torch.cuda.manual_seed = torch.default_generator.manual_seed  # type: ignore[assignment]
    torch.cuda.get_rng_state = lambda device="cuda": torch.get_rng_state()
    mcore_random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    mcore_random._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    logging.getLogger(mcore_random.__name__).addFilter(_no_other_generator_complaint)


def _keep_lone_ranks_to_themselves() -> None:
    """Skip sums over one rank: gloo hands them to another thread, which costs a step eight waits on a busy machine."""
    reduce = torch.distributed.all_reduce

    @functools.wraps(reduce)
    def all_reduce(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        group = kwargs.get("group", args[1] if len(args) > 1 else None)
        asynchronous = kwargs.get("async_op", args[2] if len(args) > 2 else False)
        if not asynchronous and torch.distributed.get_world_size(group) == 1:
            return None
        return reduce(tensor, *args, **kwargs)

    torch.distributed.all_reduce = all_reduce


def _take_optimizers_that_need_no_gpu() -> None:
    """Replace the fused kernels that megatron-core took since a package is installed: without a driver they all fail.

    So it is in the NGC image on a node without GPUs, where labelling, building and the doctor run.
    """
    from megatron.core import optimizer, utils
    from megatron.core.optimizer import clip_grads
    from megatron.core.optimizer import optimizer as updates

    optimizer.Adam, optimizer.SGD, optimizer.USING_PYTORCH_OPTIMIZER = torch.optim.AdamW, torch.optim.SGD, True
    clip_grads.l2_norm_impl = utils.local_multi_tensor_l2_norm
    for module in (clip_grads, updates):
        module.multi_tensor_applier = utils.local_multi_tensor_applier
        module.multi_tensor_scale_impl = utils.local_multi_tensor_scale
