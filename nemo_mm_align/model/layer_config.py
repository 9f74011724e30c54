"""The configuration of a stack of layers, as every module in it is given it."""

from __future__ import annotations

from dataclasses import dataclass

from megatron.core.transformer.transformer_config import TransformerConfig


@dataclass
class LayerConfig(TransformerConfig):
    """megatron-core's, with what the project's own modules ask beside.

    Args:
        levers: names of those `Levers` that are pulled.
    """

    levers: frozenset[str] = frozenset()
