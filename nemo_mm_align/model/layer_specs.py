"""Which module stands where in a layer.

Norms are unfused, so that local and TransformerEngine checkpoints share one set of keys and LoRA wraps the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.attention import CoreAttention
from nemo_mm_align.model.config import EngineConfig, LoRAConfig
from nemo_mm_align.model.linear import LocalColumnLinear, LocalRowLinear
from nemo_mm_align.model.lora import QKVJoin, gate_up_join, lora_column, lora_row
from nemo_mm_align.model.rotary import DecoderAttention
from nemo_mm_align.model.swiglu import decoder_mlp


class LocalNorm:
    """torch's RMSNorm or LayerNorm, marked for sequence parallel, which megatron-core's own wrapper refuses."""

    def __new__(  # type: ignore[misc]
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5
    ) -> torch.nn.Module:
        """Build the norm that `config` names."""
        kind = torch.nn.RMSNorm if config.normalization == "RMSNorm" else torch.nn.LayerNorm
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        norm: torch.nn.Module = kind(hidden_size, eps=eps, dtype=config.params_dtype, device=device)
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm


@dataclass(frozen=True)
class Kernels:
    """The classes that one implementation offers."""

    name: str
    column: type
    row: type
    norm: type


def transformer_engine_available() -> bool:
    """Whether TransformerEngine is installed and a GPU is there to run it."""
    try:
        import transformer_engine  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available()


def kernels(engine: EngineConfig) -> Kernels:
    """Return the classes that a number format and an implementation mean; raise `UserError` where they are missing."""
    implementation = engine.transformer_impl
    if implementation == "auto":  # TransformerEngine's fp32 is TF32, with 10 bits of mantissa
        fused = engine.precision != "fp32" and transformer_engine_available()
        implementation = "transformer_engine" if fused else "local"
    if implementation == "local":
        return Kernels("local", LocalColumnLinear, LocalRowLinear, LocalNorm)
    if not transformer_engine_available():
        raise UserError(
            "model.transformer_impl=transformer_engine: TransformerEngine or a GPU is missing. Run in the NGC "
            "container on a GPU node, or set model.transformer_impl=local."
        )
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TENorm, TERowParallelLinear

    return Kernels("transformer_engine", TEColumnParallelLinear, TERowParallelLinear, TENorm)


def _layer(
    kernel: Kernels, mask: AttnMaskType, qkv: Any, projection: Any, mlp: Any, attention: type = SelfAttention
) -> ModuleSpec:
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=kernel.norm,
            self_attention=ModuleSpec(
                module=attention,
                params={"attn_mask_type": mask},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=qkv, core_attention=CoreAttention, linear_proj=projection
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=kernel.norm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )


def decoder_layer(kernel: Kernels, config: TransformerConfig, lora: LoRAConfig | None) -> ModuleSpec:
    """A language-model layer, with adapters where `lora` is given."""
    if lora is None:
        mlp = MLPSubmodules(linear_fc1=kernel.column, linear_fc2=kernel.row)
        return _layer(
            kernel, AttnMaskType.causal, kernel.column, kernel.row, decoder_mlp(mlp), attention=DecoderAttention
        )
    column, row = lora_column(kernel.column), lora_row(kernel.row)
    width = config.kv_channels
    queries, keys = config.num_attention_heads * width, config.num_query_groups * width

    def columns(outputs: dict[str, int], join: Any) -> Any:
        if not set(outputs) & set(lora.targets):
            return kernel.column
        return ModuleSpec(module=column, params={"lora": lora, "outputs": outputs, "join": join})

    def rows(name: str) -> Any:
        return ModuleSpec(module=row, params={"lora": lora, "name": name}) if name in lora.targets else kernel.row

    gate_up = {"gate": config.ffn_hidden_size, "up": config.ffn_hidden_size}
    return _layer(
        kernel,
        AttnMaskType.causal,
        columns({"q": queries, "k": keys, "v": keys}, QKVJoin(width)),
        rows("o"),
        decoder_mlp(MLPSubmodules(linear_fc1=columns(gate_up, gate_up_join), linear_fc2=rows("down"))),
        attention=DecoderAttention,
    )


def vision_layer(kernel: Kernels) -> ModuleSpec:
    """A vision-tower layer: every patch sees every patch."""
    mlp = MLPSubmodules(linear_fc1=kernel.column, linear_fc2=kernel.row)
    return _layer(kernel, AttnMaskType.no_mask, kernel.column, kernel.row, ModuleSpec(module=MLP, submodules=mlp))


def block(layer: ModuleSpec, count: int, kernel: Kernels) -> TransformerBlockSubmodules:
    """`count` layers and the final norm."""
    return TransformerBlockSubmodules(layer_specs=[layer] * count, layer_norm=kernel.norm)


def projector(kernel: Kernels) -> MLPSubmodules:
    """The two linear layers of the multimodal projector."""
    return MLPSubmodules(linear_fc1=kernel.column, linear_fc2=kernel.row)
