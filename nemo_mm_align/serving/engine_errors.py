"""What clients are told of an engine's errors."""

from __future__ import annotations

import torch

from nemo_mm_align.inference.engine_loop import Ending, QueueFull
from nemo_mm_align.serving.errors import ApiError


def api_error(error: BaseException) -> ApiError:
    """Return what a client is told of an error of the engine."""
    if isinstance(error, QueueFull):
        return ApiError(429, f"{error}; try again later", code="queue_full")
    if isinstance(error, Ending):
        return ApiError(503, "the server is about to end and takes no more requests", code="draining")
    if isinstance(error, ValueError):
        return ApiError(400, str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return ApiError(503, "there was no memory for this prompt beside the others; try again", code="out_of_memory")
    return ApiError(500, "the engine has failed and the server ends; its log says why", code="engine_failed")
