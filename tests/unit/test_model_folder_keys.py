"""No key of a model folder's config.json is passed over unread: used, known to change nothing, or refused by name."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, MistralConfig, PretrainedConfig, Qwen2Config

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.huggingface_config import llava_config_from_hf
from nemo_mm_align.model.huggingface_keys import TEXT, TOP, VISION, Keys, text_faults

TEXT_CONFIG = {
    "model_type": "llama", "vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
}  # fmt: skip
VISION_CONFIG = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "image_size": 28, "patch_size": 14,
}  # fmt: skip


def write(folder: Path, part: str | None = None, **changes: Any) -> Path:
    """Write a small LLaVA's config.json with `changes` at its top or in one of its parts; return its folder."""
    values: dict[str, Any] = {
        "model_type": "llava",
        "image_token_index": 98,
        "text_config": dict(TEXT_CONFIG),
        "vision_config": dict(VISION_CONFIG),
    }
    (values[part] if part else values).update(changes)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("kind", "keys"),
    [(LlavaConfig, TOP), (LlamaConfig, TEXT), (MistralConfig, TEXT), (Qwen2Config, TEXT), (CLIPVisionConfig, VISION)],
)
def test_every_field_of_transformers_stands_in_a_list(kind: type[PretrainedConfig], keys: Keys) -> None:
    config = kind()
    fields = {*config.to_dict(), *vars(config), *inspect.signature(kind.__init__).parameters} - {"self", "kwargs"}
    assert fields - keys.known == set()
    assert len(fields) > 60


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig])
def test_what_transformers_itself_writes_is_known(kind: type[PretrainedConfig], tmp_path: Path) -> None:
    more = {"sliding_window": None} if kind is MistralConfig else {}
    text = kind(**{key: value for key, value in TEXT_CONFIG.items() if key != "model_type"}, **more)
    config = LlavaConfig(CLIPVisionConfig(**VISION_CONFIG), text, image_token_index=98)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert llava_config_from_hf(tmp_path).language.groups == 4


@pytest.mark.parametrize("part", ["general", "llama", "mistral", "tokenizer"])
def test_what_transformers_takes_over_from_gguf_files_is_known(part: str) -> None:
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    assert {key for key in GGUF_CONFIG_MAPPING[part].values() if key} - TEXT.known == set()


REFUSED = [
    (None, {"quantization_config": {"quant_method": "fbgemm_fp8"}}, r"quantization_config .*quantised \(fbgemm_fp8\)"),
    ("text_config", {"quantization_config": {"bits": 4}}, "text_config.quantization_config"),
    (None, {"transformers_weights": "other.safetensors"}, "transformers_weights='other.safetensors'"),
    (None, {"auto_map": {"AutoModel": "own.Model"}}, "auto_map"),
    (None, {"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type='spatial' is not known"),
    (None, {"image_token_id": 97}, "image_token_index=98 and image_token_id=97 differ"),
    ("text_config", {"logit_scale": 0.5}, "text_config.logit_scale=0.5 is not known"),
    ("text_config", {"attention_dropout": 0.1}, "attention_dropout=0.1 is not supported"),
    ("text_config", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    ("text_config", {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
    ("text_config", {"sliding_window": 511}, "sliding_window=511 is not supported"),
    ("text_config", {"model_type": "mistral", "max_position_embeddings": 4097}, r"sliding_window=4096 \(transformers' default"),
    ("text_config", {"model_type": "qwen2"}, "biases"),
    ("text_config", {"num_hidden_layers": "2"}, "num_hidden_layers='2': a whole number"),
    ("text_config", {"num_attention_heads": 0}, "num_attention_heads=0"),
    ("text_config", {"rms_norm_eps": None}, "rms_norm_eps=None: a number"),
    ("text_config", {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}}, "type 'linear'"),
    ("text_config", {"rope_scaling": {"rope_type": "default", "factor": 2.0}}, "rope_scaling.factor=2.0"),
    ("text_config", {"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}}, "versions of transformers"),
    ("text_config", {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta=10000.0.*rope_theta=500000"),
    ("text_config", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters.full_attention"),
    ("text_config", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "=0.25"),
    ("vision_config", {"attention_dropout": 0.1}, "vision_config.attention_dropout=0.1"),
    ("vision_config", {"patch_norm": True}, "vision_config.patch_norm=True is not known"),
    ("vision_config", {"layer_norm_eps": -1}, "layer_norm_eps=-1"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "changes", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_not_computed_is_refused_with_file_key_and_value(
    tmp_path: Path, part: str | None, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=rf"config\.json: .*{message}"):
        llava_config_from_hf(write(tmp_path, part, **changes))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        (None, {"vision_feature_layer": [-2]}),
        (None, {"quantization_config": None}),
        ("text_config", {"rope_scaling": {"rope_type": "default"}}),
        ("text_config", {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        ("text_config", {"sliding_window": 512}),
        ("text_config", {"model_type": "mistral", "sliding_window": None}),
        ("vision_config", {"projection_dim": 16, "dropout": 0.0, "initializer_factor": 2.0}),
    ],
)
def test_what_computes_the_same_opens(tmp_path: Path, part: str | None, changes: dict[str, Any]) -> None:
    found = llava_config_from_hf(write(tmp_path, part, **changes))
    assert found.vision.feature_layer == -2
    assert found.language.rotary_base == changes.get("rope_theta", 1e4)


def test_a_missing_vision_config_is_llavas_own_and_an_empty_one_is_clips(tmp_path: Path) -> None:
    for given in (None, {}):
        expected = LlavaConfig(vision_config=given).vision_config
        found = llava_config_from_hf(write(tmp_path, vision_config=given)).vision
        assert (found.num_layers, found.hidden_size, found.ffn_hidden_size, found.image_size, found.patch_size) == (
            expected.num_hidden_layers, expected.hidden_size, expected.intermediate_size, expected.image_size,
            expected.patch_size,
        )  # fmt: skip


def test_mistral_defaults_are_transformers(tmp_path: Path) -> None:
    given = {"model_type": "mistral", "sliding_window": None, "vocab_size": 99, "num_hidden_layers": 2}
    found, expected = llava_config_from_hf(write(tmp_path, text_config=given)).language, MistralConfig(**given)
    assert (found.groups, found.ffn_hidden_size, found.max_position_embeddings) == (
        expected.num_key_value_heads,
        expected.intermediate_size,
        expected.max_position_embeddings,
    )


def test_a_base_of_older_adapters_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "text_config", my_note="kept")
    (tmp_path / "adapter_config.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        llava_config_from_hf(tmp_path, tolerant=True)
    assert ["my_note" in caplog.messages[0], "adapters lie beside" in caplog.messages[1]] == [True, True]


def test_adapters_beside_the_weights_are_refused(tmp_path: Path) -> None:
    (write(tmp_path) / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="adapter_config.json: adapters lie beside the weights.*merge_and_unload"):
        llava_config_from_hf(tmp_path)


def test_a_number_is_no_truth_value() -> None:
    assert list(text_faults({"attention_bias": 0})) == ["attention_bias=0 is not supported; this engine computes False"]
