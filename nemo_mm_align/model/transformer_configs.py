"""megatron-core TransformerConfigs of the three parts of a LLaVA."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.arithmetic import odd_fp8_widths
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, ParallelConfig, fp8_capability
from nemo_mm_align.model.layer_config import LayerConfig
from nemo_mm_align.model.layer_specs import transformer_engine_available


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation, x * sigmoid(1.702 x); megatron-core's own copy compiles for 20 s on a CPU."""
    return x * torch.sigmoid(1.702 * x)


def check_precision(engine: EngineConfig) -> None:
    """Refuse FP8 where it would be silently ignored: megatron-core computes without it and says nothing."""
    if not engine.fp8:
        return
    if not transformer_engine_available() or engine.transformer_impl == "local":
        raise UserError(
            f"precision={engine.precision}: FP8 needs TransformerEngine and a GPU"
            f"{', not model.transformer_impl=local' if engine.transformer_impl == 'local' else ''}. Run in the NGC "
            "container on an Ada, Hopper or Blackwell GPU, or set precision=bf16."
        )
    needed = fp8_capability(engine.precision)
    if torch.cuda.get_device_capability() < needed:
        raise UserError(
            f"precision={engine.precision}: {torch.cuda.get_device_name()} has no units for it (compute capability "
            f"{needed[0]}.{needed[1]} or newer is needed). Set precision=bf16."
        )


def check_fp8_widths(config: LlavaConfig, parallel: ParallelConfig, engine: EngineConfig) -> None:
    """Raise `UserError` where FP8 cannot take a width; TransformerEngine says so only at the first product."""
    odd = odd_fp8_widths(config, parallel) if engine.fp8 else {}
    if odd:
        listed = ", ".join(f"{name}={width}" for name, width in odd.items())
        raise UserError(
            f"precision={engine.precision}: no multiple of 16: {listed}. Choose a smaller "
            "model.tensor_model_parallel_size or precision=bf16."
        )


def _shared(engine: EngineConfig, initialize: bool) -> dict[str, Any]:
    check_precision(engine)
    dtype = torch.float32 if engine.precision == "fp32" else torch.bfloat16
    return {
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "perform_initialization": initialize,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "bias_dropout_fusion": False,
        "bias_activation_fusion": False,
        "masked_softmax_fusion": False,
        "gradient_accumulation_fusion": False,
        "use_cpu_initialization": not torch.cuda.is_available(),
        "deallocate_pipeline_outputs": True,
    }


def _fp8(engine: EngineConfig) -> dict[str, Any]:
    """FP8 options as TransformerEngine's own recipes have them.

    megatron-core's defaults would take the scale of delayed scaling from the last micro batch alone (a history of one
    amax), and give the gradients of blockwise scaling E5M2, whose 2 bits of mantissa its fine scales make unnecessary.
    """
    if not engine.fp8:
        return {}
    recipe = engine.precision.removeprefix("fp8_")
    options: dict[str, Any] = {"fp8": "e4m3" if recipe == "blockwise" else "hybrid", "fp8_recipe": recipe}
    if recipe == "delayed":
        options |= {"fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"}
    return options


def language_config(
    config: LlavaConfig, parallel: ParallelConfig, engine: EngineConfig, initialize: bool = True
) -> LayerConfig:
    """The decoder: Llama-type layers, split over tensor- and pipeline-parallel ranks; levers are its alone."""
    language = config.language
    options = _shared(engine, initialize)
    check_fp8_widths(config, parallel, engine)
    options |= _fp8(engine)
    if engine.recompute == "full":
        options |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    elif engine.recompute == "selective":
        options |= {"recompute_granularity": "selective"}
    return LayerConfig(
        levers=engine.levers.on("cuda" if torch.cuda.is_available() else "cpu"),
        num_layers=language.num_layers,
        hidden_size=language.hidden_size,
        ffn_hidden_size=language.ffn_hidden_size,
        num_attention_heads=language.num_attention_heads,
        num_query_groups=language.groups,
        kv_channels=language.kv_channels,
        normalization="RMSNorm",
        layernorm_epsilon=language.rms_norm_eps,
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=F.silu,
        mrope_section=[language.kv_channels // 2],  # one section with equal rows: plain rotary, by position id
        apply_rope_fusion=False,
        calculate_per_token_loss=True,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        num_layers_in_first_pipeline_stage=parallel.num_layers_in_first_pipeline_stage,
        num_layers_in_last_pipeline_stage=parallel.num_layers_in_last_pipeline_stage,
        **options,
    )


def vision_config(
    config: LlavaConfig, parallel: ParallelConfig, engine: EngineConfig, initialize: bool = True
) -> LayerConfig:
    """The tower: CLIP layers up to the feature layer, whole on the first stage, never FP8 or sequence parallel."""
    vision = config.vision
    return LayerConfig(
        num_layers=vision.computed_layers,
        hidden_size=vision.hidden_size,
        ffn_hidden_size=vision.ffn_hidden_size,
        num_attention_heads=vision.num_attention_heads,
        normalization="LayerNorm",
        layernorm_epsilon=vision.layer_norm_eps,
        add_bias_linear=True,
        add_qkv_bias=True,
        activation_func=quick_gelu,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        **_shared(engine, initialize),
    )


def projector_config(
    config: LlavaConfig, parallel: ParallelConfig, engine: EngineConfig, initialize: bool = True
) -> LayerConfig:
    """The projector: two linear layers with GELU between."""
    language = config.language
    return LayerConfig(
        num_layers=1,
        hidden_size=language.hidden_size,
        ffn_hidden_size=language.hidden_size,
        num_attention_heads=language.num_attention_heads,  # unused, but megatron-core wants TP to divide it
        add_bias_linear=True,
        activation_func=F.gelu,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        **_shared(engine, initialize),
    )
