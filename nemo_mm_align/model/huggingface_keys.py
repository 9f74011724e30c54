"""Which keys of a Hugging Face LLaVA's config.json are used, which change nothing, and which are refused, by value.

Every field of transformers' `LlavaConfig`, `LlamaConfig`, `MistralConfig` and `CLIPVisionConfig` stands in one of the lists
below (a test asks those classes); docs/model_folders.md says the same in words. A key that stands in none is refused by name:
what it asks for would not be computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_IDLE = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash _experts_implementation
    _model_name_or_path _name_or_path _output_attentions architectures dtype finetuning_task id2label label2id output_attentions
    output_hidden_states problem_type return_dict task_specific_params tf_legacy_loss tokenizer_class torch_dtype torchscript
    transformers_version use_bfloat16 use_cache initializer_range initializer_factor unsloth_fixed unsloth_version
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id mask_token_id cls_token_id decoder_start_token_id
    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores prefix remove_invalid_values
    repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
    """.split()  # noqa: SIM905 - sixty quoted names are no easier to read
)
"""Of every configuration: names, labels, what a training starts from, and how transformers' `generate` decodes (here the
settings of sample and generate say that, and the tokenizer and the chat template name the special tokens)."""

_FIXED: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "compression_config": (None,),
    "transformers_weights": (None,),
    "auto_map": (None, {}),
    "pruned_heads": (None, {}),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "chunk_size_feed_forward": (0,),
}


@dataclass(frozen=True)
class Keys:
    """What may stand in one configuration.

    Args:
        used: read into a `LlavaConfig`.
        idle: known not to change what is computed from token ids and pixels.
        fixed: the values that are computed here; any other is refused.
    """

    used: frozenset[str]
    idle: frozenset[str]
    fixed: Mapping[str, tuple[Any, ...]]

    @property
    def known(self) -> frozenset[str]:
        """All keys."""
        return self.used | self.idle | self.fixed.keys()


TOP = Keys(
    used=frozenset({"text_config", "vision_config", "image_token_index", "image_token_id", "vision_feature_layer"}),
    # tie_word_embeddings: transformers goes by text_config's; image_seq_length: other servers' estimate; attribute_schema: an
    # export's, of what the model can be asked for
    idle=_IDLE | {"attribute_schema", "ignore_index", "image_seq_length", "tie_word_embeddings", "vocab_size"},
    fixed={
        **_FIXED,
        "model_type": ("llava",),
        "projector_hidden_act": ("gelu",),
        "vision_feature_select_strategy": ("default",),
        "multimodal_projector_bias": (True,),
    },
)

TEXT = Keys(
    used=frozenset(
        {
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "rms_norm_eps",
            "rope_theta",
            "rope_scaling",
            "rope_parameters",
            "tie_word_embeddings",
            "sliding_window",
            "layer_types",
        }
    ),
    # pretraining_tp: slices of a matrix product; max_window_layers: nothing without use_sliding_window
    idle=_IDLE
    | {"pretraining_tp", "max_sequence_length", "max_window_layers", "is_llama_config", "transformers.js_config"},
    fixed={
        **_FIXED,
        "model_type": ("llama", "mistral"),
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "attention_dropout": (0, None),
        "use_sliding_window": (False,),
        "partial_rotary_factor": (1, None),
        "rope_interleaved": (False,),
    },
)

VISION = Keys(
    used=frozenset(
        {
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "image_size",
            "patch_size",
            "layer_norm_eps",
        }
    ),
    # of CLIP's text tower and of the heads behind the features
    idle=_IDLE | {"projection_dim", "vocab_size", "tie_word_embeddings"},
    fixed={
        **_FIXED,
        "model_type": ("clip_vision_model",),
        "num_channels": (3,),
        "hidden_act": ("quick_gelu",),
        "attention_dropout": (0, None),
        "dropout": (0, None),
    },
)


def llava_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a LLaVA's config.json asks for that is not computed here, each by key and value."""
    yield from _faults(values, TOP, "")
    yield from text_faults(values.get("text_config") or {}, "text_config.")
    yield from _faults(values.get("vision_config") or {}, VISION, "vision_config.")
    tokens = {values[key] for key in ("image_token_index", "image_token_id") if isinstance(values.get(key), int)}
    if len(tokens) > 1:
        yield f"image_token_index={values['image_token_index']} and image_token_id={values['image_token_id']} differ; keep one"


def text_faults(values: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Yield the same of a language model's configuration; `where` goes before the keys."""
    yield from _faults(values, TEXT, where)
    yield from _rope_faults(values, where)
    yield from _window_faults(values, where)


def tower_faults(values: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Yield the same of a CLIP vision tower's configuration."""
    yield from _faults(values, VISION, where)


def whole_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the same of the keys around a tower's configuration in a CLIP folder: those that speak of all weights."""
    for key in ("quantization_config", "compression_config", "transformers_weights", "auto_map"):
        yield from _faults({key: values.get(key)}, VISION, "")


def _faults(values: Mapping[str, Any], keys: Keys, where: str) -> Iterator[str]:
    for key, value in values.items():
        if key in keys.fixed:
            if not any(
                value == allowed and isinstance(value, bool) is isinstance(allowed, bool) for allowed in keys.fixed[key]
            ):
                yield _fixed_fault(key, value, keys.fixed[key], where)
        elif key not in keys.known:
            yield f"{where}{key}={shown(value)} is not known, so what it asks for would not be computed"


def _fixed_fault(key: str, value: Any, allowed: tuple[Any, ...], where: str) -> str:
    if key in ("quantization_config", "compression_config"):
        method = value.get("quant_method", "?") if isinstance(value, Mapping) else value
        return (
            f"{where}{key} says that the weights are quantised ({method}); this engine computes with fp32, bf16 and fp16 "
            "weights. Give the model before quantisation, or save it dequantised (transformers: model.dequantize())"
        )
    if key == "model_type" and value in ("qwen2", "qwen3"):
        return f"{where}model_type={value!r} is not supported: its q, k, v have biases or norms that this engine does not compute"
    return f"{where}{key}={shown(value)} is not supported; this engine computes {' or '.join(map(repr, allowed))}"


_ROPE_KEYS = {"type", "rope_type", "rope_theta", "partial_rotary_factor"}


def _rope_faults(values: Mapping[str, Any], where: str) -> Iterator[str]:
    """Of what transformers 4 (rope_theta, rope_scaling) and 5 (rope_parameters) say of positions; they have to agree."""
    bases = {"rope_theta": values["rope_theta"]} if values.get("rope_theta") is not None else {}
    for section in ("rope_scaling", "rope_parameters"):
        rope = values.get(section)
        if rope is None:
            continue
        if not isinstance(rope, Mapping):
            yield f"{where}{section}={shown(rope)} is no object"
            continue
        kinds = [rope[key] for key in ("type", "rope_type") if rope.get(key) is not None]
        other = [kind for kind in kinds if kind != "default"]
        if other:
            yield f"{where}{section} of type {other[0]!r} is not supported; this engine computes plain rotary positions"
            continue
        for key in rope.keys() - _ROPE_KEYS:
            yield f"{where}{section}.{key}={shown(rope[key])} is not supported; plain rotary positions have no such setting"
        if rope.get("partial_rotary_factor", 1) not in (1, None):
            share = rope["partial_rotary_factor"]
            yield f"{where}{section}.partial_rotary_factor={share} is not supported; all of a head is rotated"
        if rope.get("rope_theta") is not None:
            bases[f"{section}.rope_theta"] = rope["rope_theta"]
            if section == "rope_scaling":
                bases.setdefault("rope_theta", 10000.0)  # what transformers 4 takes, which does not look into it
    if any(base != next(iter(bases.values())) for base in bases.values()):
        said = ", ".join(f"{where}{key}={value}" for key, value in bases.items())
        yield f"{said}: versions of transformers read different ones of these. Keep the one that the model was trained with"


def _window_faults(values: Mapping[str, Any], where: str) -> Iterator[str]:
    """Attention that sees a window alone; one that is as wide as the context is full attention."""
    kinds = values.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds)):
        yield f"{where}layer_types={shown(kinds)} is not supported; this engine computes full attention in every layer"
    mistral = values.get("model_type") == "mistral"
    window = values.get("sliding_window", 4096 if mistral else None)
    context = values.get("max_position_embeddings", 131072 if mistral else 2048)
    if window is not None and not (isinstance(window, int) and isinstance(context, int) and window >= context):
        unsaid = "" if "sliding_window" in values else " (transformers' default where the key is missing)"
        yield (
            f"{where}sliding_window={shown(window)}{unsaid} is not supported: attention here sees all of the "
            f"{context} positions. Set it to null if the model was trained without a window"
        )


def shown(value: Any) -> str:
    """A value as it stands in a message: cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
