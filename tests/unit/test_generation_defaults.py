"""generation_config.json of exports: what vLLM takes of it, nothing of the base's, the same answers in transformers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.generation_defaults import GenerationDefaults, generation_config
from nemo_mm_align.model.huggingface_export import Companions
from nemo_mm_align.model.huggingface_origin import Origin

VICUNA = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "temperature": 0.9, "top_p": 0.6}
TOKENS = {"eos_token_id": 7, "pad_token_id": 0}
TAKEN = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p", "max_new_tokens")


def seen_by_vllm(folder: Path) -> dict[str, Any]:
    """As vLLM (config/model.py, get_diff_sampling_param): what differs from transformers' defaults, of six entries."""
    values = GenerationConfig.from_pretrained(folder).to_diff_dict()
    return {name: values[name] for name in TAKEN if values.get(name) is not None}


def written(folder: Path, origin: dict[str, Any], **chosen: Any) -> dict[str, Any]:
    """What an export writes where the folder of origin has a file already."""
    (folder / "base").mkdir()
    path = folder / "base/generation_config.json"
    path.write_text(json.dumps(origin))
    Companions(None, None, TOKENS, GenerationDefaults(**chosen)).write(folder, Origin({}, {}, (path,)))
    return dict(json.loads((folder / "generation_config.json").read_text()))


def test_nothing_of_the_base_decides_how_servers_sample(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert written(tmp_path, VICUNA) == {"bos_token_id": 1, **TOKENS}
    assert "says temperature=0.9, top_p=0.6; the export does not" in caplog.text
    assert seen_by_vllm(tmp_path) == {}
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == 7


@pytest.mark.parametrize(
    ("chosen", "seen", "sampled"),
    [
        ({"temperature": 0, "max_new_tokens": 64}, {"temperature": 0, "max_new_tokens": 64}, False),
        ({"temperature": 0.7}, {"temperature": 0.7, "top_k": 0}, True),
        ({"top_p": 0.9}, {"top_p": 0.9, "top_k": 0}, True),
        ({"temperature": 1, "top_k": 20, "min_p": 0.1}, {"top_k": 20, "min_p": 0.1}, True),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}, False),
    ],
)
def test_what_is_chosen_is_what_vllm_takes(
    tmp_path: Path, chosen: dict[str, Any], seen: dict[str, Any], sampled: bool
) -> None:
    written(tmp_path, {}, **chosen)
    assert seen_by_vllm(tmp_path) == seen
    assert GenerationConfig.from_pretrained(tmp_path).do_sample is sampled


def test_what_servers_would_not_see_is_said() -> None:
    (said,) = GenerationDefaults(top_k=50).warnings()
    assert "vLLM therefore does not see" in said
    assert generation_config({}, {}, GenerationDefaults(top_k=50))["top_k"] == 50
    (said,) = GenerationDefaults(temperature=0, top_p=0.5).warnings()
    assert "change nothing" in said
    assert GenerationDefaults(temperature=0.5, top_k=49).warnings() == []


@pytest.mark.parametrize(
    "values",
    [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"max_new_tokens": 0}, {"do_sample": True}],
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"generation.{next(iter(values))}"):
        read(GenerationDefaults, values, "generation")
