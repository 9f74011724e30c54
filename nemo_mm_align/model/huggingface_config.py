"""A Hugging Face LLaVA's config.json as a `LlavaConfig`, and back.

transformers leaves values out of config.json that equal its defaults; they are filled in here. What this engine would
compute differently is refused by name, never approximated.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folder_files import read_object
from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, VisionConfig
from nemo_mm_align.model.huggingface_head import head_faults, without_head
from nemo_mm_align.model.huggingface_keys import llava_faults, shown

_log = logging.getLogger(__name__)

_EDIT = "Give a model without it, or correct the file if that was not meant"

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
_MISTRAL_DEFAULTS = {"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072}
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
_VISION_OF_LLAVA = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""What transformers takes where a LLaVA's config.json has no vision_config at all."""

_DEFAULTS: dict[str, Any] = {
    "model_type": "llava",
    "projector_hidden_act": "gelu",
    "vision_feature_select_strategy": "default",
    "vision_feature_layer": -2,
    "multimodal_projector_bias": True,
}


def llava_config_from_hf(folder: str | Path, tolerant: bool = False) -> LlavaConfig:
    """Read config.json of a Hugging Face LLaVA (CLIP tower, Llama-type language model).

    Args:
        folder: with config.json and weights.
        tolerant: warn of keys that nobody reads and of adapters beside the weights, instead of refusing them: for the base
            of adapters that were trained on it before such keys were looked at.

    Raises:
        UserError: no such file, or a setting that this engine does not compute; the message names the key.
    """
    path = Path(folder) / "config.json"
    values = read_object(path, "config.json, weights in safetensors and tokenizer files")
    said = [*head_faults(values), *llava_faults(without_head(values))]
    faults = [f"{path}: {fault}. {_EDIT}" for fault in said]
    faults += [fault for fault in [adapter_fault(folder)] if fault is not None]
    if faults and not tolerant:
        raise UserError(faults[0])
    for fault in faults:
        _log.warning("%s", fault)
    return config_from_values(values, str(path))


def adapter_fault(folder: str | Path) -> str | None:
    """Return what is wrong with a model folder that holds adapters of PEFT as well; None where it holds none."""
    path = Path(folder) / "adapter_config.json"
    if not path.exists():
        return None
    return (
        f"{path}: adapters lie beside the weights; transformers would apply them, this engine would not. Merge them into "
        "the weights (peft: merge_and_unload, then save_pretrained to another folder), or move adapter_config.json and "
        "adapter_model.* away to open the model without them."
    )


def config_from_values(values: Mapping[str, Any], where: str) -> LlavaConfig:
    """Like `llava_config_from_hf`, from the parsed JSON; `where` opens every error message."""
    top = _DEFAULTS | dict(values)
    layer = _feature_layer(top["vision_feature_layer"], f"{where}: ")
    _require(
        top, f"{where}: ", {key: (default,) for key, default in _DEFAULTS.items() if key != "vision_feature_layer"}
    )
    tower = top.get("vision_config")
    vision = vision_from_values(
        _section(_VISION_OF_LLAVA if tower is None else tower, f"{where}: vision_config"),
        f"{where}: vision_config.",
        layer,
    )
    text = top.get("text_config")
    language = language_from_values(
        _section({} if text is None else text, f"{where}: text_config"), f"{where}: text_config."
    )
    image_token = top.get("image_token_index", top.get("image_token_id", 32000))
    image_token = _whole(image_token, f"{where}: ", "image_token_index", least=0)
    name = str(Path(where).parent.name or "llava")
    return LlavaConfig(language=language, vision=vision, image_token_id=image_token, name=name)


def _section(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}={shown(value)} is no object.")
    return value


def _feature_layer(value: Any, where: str) -> int:
    """One hidden state of the tower; a list of one computes the same."""
    layer = value[0] if isinstance(value, list) and len(value) == 1 else value
    if type(layer) is not int:
        raise UserError(
            f"{where}vision_feature_layer={value!r} is not supported; this engine computes one whole number."
        )
    return layer


def _require(values: Mapping[str, Any], where: str, allowed: Mapping[str, tuple]) -> None:
    for key, choices in allowed.items():
        value = values[key]
        if value not in choices:
            wanted = " or ".join(map(repr, choices))
            raise UserError(f"{where}{key}={shown(value)} is not supported; this engine computes {wanted}.")


def _whole(value: Any, where: str, key: str, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{where}{key}={shown(value)}: a whole number from {least} on belongs there.")
    return value


def _number(value: Any, where: str, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise UserError(f"{where}{key}={shown(value)}: a number above 0 belongs there.")
    return float(value)


def vision_from_values(given: Mapping[str, Any], where: str, feature_layer: int) -> VisionConfig:
    """Read a CLIP vision configuration; `where` goes before the key in error messages."""
    values = _VISION_DEFAULTS | dict(given)
    fixed = {key: (_VISION_DEFAULTS[key],) for key in ("model_type", "num_channels", "hidden_act")}
    _require(values, where, fixed)

    def whole(key: str) -> int:
        return _whole(values[key], where, key)

    layers = whole("num_hidden_layers")
    return VisionConfig(
        num_layers=layers,
        hidden_size=whole("hidden_size"),
        ffn_hidden_size=whole("intermediate_size"),
        num_attention_heads=whole("num_attention_heads"),
        image_size=whole("image_size"),
        patch_size=whole("patch_size"),
        # transformers counts hidden states from the embeddings' (0) on; ours are counted from the end
        feature_layer=feature_layer if feature_layer < 0 else feature_layer - layers - 1,
        layer_norm_eps=_number(values["layer_norm_eps"], where, "layer_norm_eps"),
    )


def language_from_values(given: Mapping[str, Any], where: str) -> LanguageConfig:
    """Read a Llama's or a Mistral's configuration; `where` goes before the key in error messages."""
    mistral = given.get("model_type") == "mistral"
    values = _TEXT_DEFAULTS | (_MISTRAL_DEFAULTS if mistral else {}) | dict(given)
    fixed = {key: (_TEXT_DEFAULTS[key],) for key in ("hidden_act", "attention_bias", "mlp_bias")}
    _require(values, where, {"model_type": ("llama", "mistral"), **fixed})
    rope = values["rope_parameters"] or values["rope_scaling"] or {}  # transformers 5 and 4
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"{where}rope_scaling of type {kind!r} is not supported; only plain rotary is.")

    def whole(key: str) -> int:
        return _whole(values[key], where, key)

    heads, hidden, width = whole("num_attention_heads"), whole("hidden_size"), values["head_dim"]
    return LanguageConfig(
        num_layers=whole("num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=whole("intermediate_size"),
        num_attention_heads=heads,
        vocab_size=whole("vocab_size"),
        num_query_groups=whole("num_key_value_heads") if values["num_key_value_heads"] is not None else heads,
        head_dim=None
        if width is None or whole("head_dim") * heads == hidden
        else whole("head_dim"),  # one form for what follows by itself
        max_position_embeddings=whole("max_position_embeddings"),
        rotary_base=_number(rope.get("rope_theta") or values["rope_theta"], where, "rope_theta"),
        # six digits: GGUF files hold it in single precision
        rms_norm_eps=float(f"{_number(values['rms_norm_eps'], where, 'rms_norm_eps'):.6g}"),
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
