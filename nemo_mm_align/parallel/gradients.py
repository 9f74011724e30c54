"""Gradients of a step, divided and measured without waiting for the device.

megatron-core asks the device whether the count is above zero and what the norm is; each question holds the host up until
all kernels of the step have run. Here both stay on the device; the step reads them once, together with its metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor


def finalize_gradients(
    model: Sequence[DistributedDataParallel], num_tokens: Tensor | None = None, **options: Any
) -> None:
    """Reduce gradients over ranks as megatron-core does, then divide them by the count of the whole step.

    Args:
        model: the chunks of this stage.
        num_tokens: what this rank's micro batches counted, an integer []; only the last stage knows it.
        options: megatron-core's own.
    """
    finalize_model_grads(list(model), None, **options)
    if num_tokens is None:
        return
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        torch.distributed.broadcast(num_tokens, last, group=parallel_state.get_pipeline_model_parallel_group())
    torch.distributed.all_reduce(num_tokens, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
    for chunk in model:
        chunk.scale_gradients(1.0 / num_tokens.clamp(min=1))  # nothing counted: gradients are zero as they are


def squared_gradient_norm(optimizer: MegatronOptimizer) -> Tensor:
    """Return the squared norm of all gradients of all ranks, float32 [], on the device.

    Parameters that several ranks hold count once, as megatron-core marks them.
    """
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    gradients = [gradient for part in parts for gradient in part.get_main_grads_for_grad_norm()]
    own = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=torch.cuda.current_device())
    square = own.float() ** 2
    torch.distributed.all_reduce(square, group=optimizer.get_grad_stats_parallel_group())
    return square
