"""Sizes, divisibility and presets: arithmetic that needs neither weights nor processes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, LoRAConfig, ParallelConfig, VisionConfig
from nemo_mm_align.model.huggingface_config import hf_config_from_llava, llava_config_from_hf

PRESETS = ("llava15_7b", "llava15_13b", "smollm2_llava", "mini")

# config.json of llava-hf/llava-1.5-13b-hf, as transformers 4.36 wrote it: what equals a default is left out
PUBLISHED_13B = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-13b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "num_key_value_heads": 40,
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}


def preset(repository: Path, name: str) -> LlavaConfig:
    return LlavaConfig.from_dict(yaml.safe_load((repository / f"conf/model/{name}.yaml").read_text()))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_composes_and_fits_its_layouts(repository: Path, name: str) -> None:
    config = preset(repository, name)
    config.check(ParallelConfig())
    tensor = 3 if name == "smollm2_llava" else 2
    config.check(ParallelConfig(tensor_model_parallel_size=tensor, sequence_parallel=True))
    assert config.name == name
    assert LlavaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_parameter_counts_of_the_paper(repository: Path) -> None:
    config = preset(repository, "llava15_13b")
    assert LoRAConfig(rank=128).num_parameters(config.language) == 500_695_040
    assert config.num_projector_parameters() == 31_467_520
    assert config.tokens_per_image == 576


@pytest.mark.parametrize(("name", "parameters"), [("llava15_7b", 6_738_939_904), ("llava15_13b", 13_016_519_680)])
def test_language_model_parameters(repository: Path, name: str, parameters: int) -> None:
    # Llama-2's published counts (6,738,415,616 and 13,015,864,320) have 64 vocabulary rows less in two matrices.
    assert preset(repository, name).language.num_parameters() == parameters


def test_smollm2_parameters(repository: Path) -> None:
    # 134,515,008 without the row of <image>
    assert preset(repository, "smollm2_llava").language.num_parameters() == 134_515_008 + 576


def test_published_config_is_the_preset(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_13B))
    expected = preset(repository, "llava15_13b")
    assert replace(llava_config_from_hf(tmp_path), name=expected.name) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_config_json_and_back(repository: Path, tmp_path: Path, name: str) -> None:
    config = preset(repository, name)
    (tmp_path / "config.json").write_text(json.dumps(hf_config_from_llava(config, "bfloat16")))
    assert replace(llava_config_from_hf(tmp_path), name=name) == config


def test_rope_in_the_form_of_transformers_5(tmp_path: Path) -> None:
    values = json.loads(json.dumps(PUBLISHED_13B))
    values["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert llava_config_from_hf(tmp_path).language.rotary_base == 5e5


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (None, "model_type", "llava_next"),
        (None, "projector_hidden_act", "relu"),
        (None, "multimodal_projector_bias", False),
        (None, "vision_feature_select_strategy", "full"),
        (None, "vision_feature_layer", [-2, -5]),
        ("text_config", "model_type", "qwen2"),
        ("text_config", "hidden_act", "gelu"),
        ("text_config", "attention_bias", True),
        ("text_config", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("vision_config", "model_type", "siglip_vision_model"),
        ("vision_config", "hidden_act", "gelu"),
    ],
)
def test_what_would_be_computed_differently_is_refused(
    tmp_path: Path, part: str | None, key: str, value: object
) -> None:
    values = json.loads(json.dumps(PUBLISHED_13B))
    (values[part] if part else values)[key] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=key):
        llava_config_from_hf(tmp_path)


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.json: no such file"):
        llava_config_from_hf(tmp_path)


SMALL = LlavaConfig(
    LanguageConfig(4, 64, 96, num_attention_heads=8, vocab_size=99, num_query_groups=4),
    VisionConfig(4, 32, 48, num_attention_heads=4, image_size=28, patch_size=14),
    image_token_id=98,
)


@pytest.mark.parametrize(
    ("layout", "field"),
    [
        ({"tensor_model_parallel_size": 3}, "num_attention_heads"),
        ({"tensor_model_parallel_size": 8}, "num_query_groups"),
        ({"sequence_parallel": True}, "sequence_parallel"),
        ({"pipeline_model_parallel_size": 3}, "pipeline_model_parallel_size"),
        ({"num_layers_in_first_pipeline_stage": 1}, "num_layers_in_first_pipeline_stage"),
        ({"pipeline_model_parallel_size": 2, "num_layers_in_first_pipeline_stage": 4}, "num_layers_in_first"),
    ],
)
def test_impossible_layouts_name_the_field(layout: dict, field: str) -> None:
    with pytest.raises(UserError, match=field):
        SMALL.check(ParallelConfig(**layout))


def test_uneven_stages_and_padding() -> None:
    layout = ParallelConfig(pipeline_model_parallel_size=3, num_layers_in_first_pipeline_stage=2)
    assert SMALL.layers_per_stage(layout) == [2, 1, 1]
    assert SMALL.padded_vocab_size(2) == 100
    assert SMALL.padded_vocab_size(1) == 99


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"image_token_id": 99}, "image_token_id"),
        ({"vision": replace(SMALL.vision, image_size=30)}, "image_size"),
        ({"vision": replace(SMALL.vision, feature_layer=0)}, "feature_layer"),
        ({"language": replace(SMALL.language, num_query_groups=3)}, "num_query_groups"),
        ({"language": replace(SMALL.language, head_dim=7)}, "head_dim"),
    ],
)
def test_sizes_that_do_not_fit_together(change: dict, field: str) -> None:
    with pytest.raises(UserError, match=field):
        replace(SMALL, **change).check(ParallelConfig())


def test_unknown_key_is_refused() -> None:
    with pytest.raises(UserError, match=r"no key model.language.hiden_size. Did you mean hidden_size\?"):
        LlavaConfig.from_dict(SMALL.to_dict() | {"language": {"hiden_size": 3}})
