"""``/tokenize`` and ``/detokenize``, with vLLM's bodies and replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.serving.served_model import ServedModel


def tokenize(body: Mapping[str, Any], served: ServedModel) -> dict[str, Any]:
    """Return ``{"count", "max_model_len", "tokens", "token_strs"}`` of a body with ``messages`` or ``prompt``.

    Raises:
        ApiError: whatever is wrong with it.
    """
    raise NotImplementedError


def detokenize(body: Mapping[str, Any], served: ServedModel) -> dict[str, Any]:
    """Return ``{"prompt"}``, the text of a body's ``tokens``, special tokens included.

    Raises:
        ApiError: whatever is wrong with it.
    """
    raise NotImplementedError
