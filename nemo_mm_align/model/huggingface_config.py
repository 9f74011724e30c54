"""A Hugging Face LLaVA's config.json as a `LlavaConfig`, and back.

transformers leaves values out of config.json that equal its defaults; they are filled in here. What this engine would
compute differently is refused by name, never approximated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.errors import UserError
from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, VisionConfig

_TEXT_DEFAULTS: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_parameters": None,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
_VISION_DEFAULTS: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_DEFAULTS: dict[str, Any] = {
    "model_type": "llava",
    "projector_hidden_act": "gelu",
    "vision_feature_select_strategy": "default",
    "vision_feature_layer": -2,
    "multimodal_projector_bias": True,
}


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Return a JSON file's object; raise `UserError` where it is missing or not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Give a folder in Hugging Face format with {what}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Copy or download the folder again.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no JSON object. Copy or download the folder again.")
    return values


def llava_config_from_hf(folder: str | Path) -> LlavaConfig:
    """Read config.json of a Hugging Face LLaVA (CLIP tower, Llama-type language model).

    Raises:
        UserError: no such file, or a setting that this engine does not compute; the message names the key.
    """
    path = Path(folder) / "config.json"
    return config_from_values(read_json(path, "config.json, weights in safetensors and tokenizer files"), str(path))


def config_from_values(values: Mapping[str, Any], where: str) -> LlavaConfig:
    """Like `llava_config_from_hf`, from the parsed JSON; `where` opens every error message."""
    top = _DEFAULTS | dict(values)
    _require(top, f"{where}: ", {**_only(top, _DEFAULTS), "vision_feature_layer": (int,)})
    vision = vision_from_values(top.get("vision_config") or {}, f"{where}: vision_config.", top["vision_feature_layer"])
    language = language_from_values(top.get("text_config") or {}, f"{where}: text_config.")
    image_token = top.get("image_token_index", top.get("image_token_id", 32000))
    name = str(Path(where).parent.name or "llava")
    return LlavaConfig(language=language, vision=vision, image_token_id=int(image_token), name=name)


def _only(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, tuple]:
    return {key: (default,) for key, default in defaults.items()}


def _require(values: Mapping[str, Any], where: str, allowed: Mapping[str, tuple]) -> None:
    for key, choices in allowed.items():
        value = values[key]
        fits = type(value) is int if choices == (int,) else value in choices
        if not fits:
            wanted = "one whole number" if choices == (int,) else " or ".join(map(repr, choices))
            raise UserError(f"{where}{key}={value!r} is not supported; this engine computes {wanted}.")


def vision_from_values(given: Mapping[str, Any], where: str, feature_layer: int) -> VisionConfig:
    """Read a CLIP vision configuration; `where` goes before the key in error messages."""
    values = _VISION_DEFAULTS | dict(given)
    fixed = {key: (_VISION_DEFAULTS[key],) for key in ("model_type", "num_channels", "hidden_act")}
    _require(values, where, fixed)
    layers = int(values["num_hidden_layers"])
    return VisionConfig(
        num_layers=layers,
        hidden_size=int(values["hidden_size"]),
        ffn_hidden_size=int(values["intermediate_size"]),
        num_attention_heads=int(values["num_attention_heads"]),
        image_size=int(values["image_size"]),
        patch_size=int(values["patch_size"]),
        # transformers counts hidden states from the embeddings' (0) on; ours are counted from the end
        feature_layer=feature_layer if feature_layer < 0 else feature_layer - layers - 1,
        layer_norm_eps=float(values["layer_norm_eps"]),
    )


def language_from_values(given: Mapping[str, Any], where: str) -> LanguageConfig:
    """Read a Llama configuration; `where` goes before the key in error messages."""
    values = _TEXT_DEFAULTS | dict(given)
    fixed = {key: (_TEXT_DEFAULTS[key],) for key in ("model_type", "hidden_act", "attention_bias", "mlp_bias")}
    _require(values, where, fixed)
    rope = values["rope_parameters"] or values["rope_scaling"] or {}  # transformers 5 and 4
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"{where}rope_scaling of type {kind!r} is not supported; only plain rotary is.")
    heads, hidden, width = int(values["num_attention_heads"]), int(values["hidden_size"]), values["head_dim"]
    return LanguageConfig(
        num_layers=int(values["num_hidden_layers"]),
        hidden_size=hidden,
        ffn_hidden_size=int(values["intermediate_size"]),
        num_attention_heads=heads,
        vocab_size=int(values["vocab_size"]),
        num_query_groups=int(values["num_key_value_heads"] or heads),
        head_dim=None
        if width is None or width * heads == hidden
        else int(width),  # one form for what follows by itself
        max_position_embeddings=int(values["max_position_embeddings"]),
        rotary_base=float(rope.get("rope_theta", values["rope_theta"])),
        rms_norm_eps=float(f"{values['rms_norm_eps']:.6g}"),  # GGUF files hold it in single precision
        tie_word_embeddings=bool(values["tie_word_embeddings"]),
    )


def hf_config_from_llava(config: LlavaConfig, dtype: str) -> dict[str, Any]:
    """Return the config.json of a `LlavaConfig` for transformers.

    Args:
        config: sizes.
        dtype: of the weights, in torch's words (``float32``, ``bfloat16``, ``float16``).
    """
    language, vision = config.language, config.vision
    return {
        **_DEFAULTS,
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": config.image_token_id,
        "image_seq_length": config.tokens_per_image,
        "vision_feature_layer": vision.feature_layer,
        "tie_word_embeddings": language.tie_word_embeddings,
        "torch_dtype": dtype,
        "text_config": {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": language.vocab_size,
            "hidden_size": language.hidden_size,
            "intermediate_size": language.ffn_hidden_size,
            "num_hidden_layers": language.num_layers,
            "num_attention_heads": language.num_attention_heads,
            "num_key_value_heads": language.groups,
            "head_dim": language.kv_channels,
            "max_position_embeddings": language.max_position_embeddings,
            "rms_norm_eps": language.rms_norm_eps,
            "rope_theta": language.rotary_base,
            "tie_word_embeddings": language.tie_word_embeddings,
            "torch_dtype": dtype,
        },
        "vision_config": {
            **{key: _VISION_DEFAULTS[key] for key in ("model_type", "hidden_act", "num_channels")},
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.ffn_hidden_size,
            "num_hidden_layers": vision.num_layers,
            "num_attention_heads": vision.num_attention_heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layer_norm_eps": vision.layer_norm_eps,
            "torch_dtype": dtype,
        },
    }
