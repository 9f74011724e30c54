"""What rank 0 does alone, and how the others learn of it; process groups must be up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from nemo_mm_align.errors import UserError
from nemo_mm_align.parallel import runtime

Result = TypeVar("Result")


def open_on_first_rank(action: Callable[[], Result]) -> Result | None:
    """Run `action` on rank 0 and return its result there, None elsewhere; what went wrong is raised on every rank."""
    result, fault = None, None
    if runtime.rank() == 0:
        try:
            result = action()
        except (UserError, OSError) as error:
            fault = str(error)
    fault = share(fault)
    if fault is not None:
        raise UserError(fault)
    return result


def share(value: Any) -> Any:
    """Give every rank what rank 0 has."""
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
