"""What rank 0 does alone, and how the others learn of it; process groups must be up, and all ranks call alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from nemo_mm_align.core.errors import UserError

Result = TypeVar("Result")


def share(value: Any) -> Any:
    """Give every rank what rank 0 has, which must be small."""
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def on_first_rank(action: Callable[[], Result], remedy: str = "") -> Result:
    """Run `action` on rank 0 and return its result, which must be small, on every rank.

    Args:
        remedy: what is said behind an error of the system.

    Raises:
        UserError: what rank 0 raised, or its system's error in words.
    """
    result, fault = attempt(action, remedy)
    result, fault = share((result, fault))
    raise_fault(fault)
    return result  # type: ignore[return-value]


def open_on_first_rank(action: Callable[[], Result]) -> Result | None:
    """Run `action` on rank 0 and return its result there, None elsewhere; raises as `on_first_rank` does."""
    result, fault = attempt(action)
    raise_fault(share(fault))
    return result


def attempt(action: Callable[[], Result], remedy: str = "") -> tuple[Result | None, str | None]:
    """On rank 0, return the result of `action` or what went wrong; elsewhere return nothing. Nothing is shared yet."""
    if torch.distributed.get_rank() != 0:
        return None, None
    try:
        return action(), None
    except UserError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.filename or ''}: {error.strerror or error}. {remedy}".removeprefix(": ").strip()


def raise_fault(fault: str | None) -> None:
    """Raise a fault that has been shared, if there is one."""
    if fault is not None:
        raise UserError(fault)
