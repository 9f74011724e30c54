"""How many answers at a time there is memory for: the cache has a fixed size, taken with the first prompt."""

from __future__ import annotations

import logging

import psutil
import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.attention import CoreAttention
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import runtime

logger = logging.getLogger(__name__)

MOST_SLOTS = 32
"""Where the user leaves the choice."""
_SHARE = 0.8
"""Of the memory that is free once weights are there; the rest is for what is computed."""
_GIB = 1024**3


def slots_for(model: Llava, length: int, kept: int, wanted: int | None) -> int:
    """Return the answers at a time, the same on all ranks; all ranks call this, weights loaded.

    Args:
        model: this rank's stage.
        length: positions of each.
        kept: prompts that are kept besides.
        wanted: as many as the user wants; None: as many as fit, at most `MOST_SLOTS`.

    Raises:
        UserError: on all ranks, there is no memory for that.
    """
    each = slot_bytes(model, length)
    fit = _least(int(_free_bytes(model) * _SHARE // each)) - kept
    if fit < (wanted or 1):
        lower = "length, kept or slots" if wanted else "length or kept"
        raise UserError(
            f"slots={wanted or 1}, kept={kept}, length={length}: each slot takes {each / _GIB:.2f} GiB for keys and values, and "
            f"there is room for {max(fit + kept, 0)} of both. Lower {lower}, or spread the model over more ranks."
        )
    slots = wanted or min(fit, MOST_SLOTS)
    logger.info("%d answers at a time, %.2f GiB of keys and values", slots, (slots + kept) * each / _GIB)
    return slots


def slot_bytes(model: Llava, length: int) -> int:
    """Return what a slot of the key-value cache takes on this rank."""
    config = model.config
    layers = sum(isinstance(module, CoreAttention) and module.causal for module in model.modules())
    groups = (config.num_query_groups or config.num_attention_heads) // config.tensor_model_parallel_size
    width = config.kv_channels or config.hidden_size // config.num_attention_heads
    return 2 * layers * groups * width * length * torch.empty((), dtype=config.params_dtype).element_size()


def _free_bytes(model: Llava) -> int:
    """Free memory of the device, or this rank's share of the host's."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available // runtime.local_world_size())


def _least(number: int) -> int:
    """The smallest of what the ranks have."""
    numbers = torch.tensor(number, device=runtime.device())
    torch.distributed.all_reduce(numbers, op=torch.distributed.ReduceOp.MIN)
    return int(numbers)
