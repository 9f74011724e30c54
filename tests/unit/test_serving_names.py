"""Paths for which SGLang ignores an exported chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_mm_align.model.serving_names import name_warning


@pytest.mark.parametrize(
    ("path", "word", "template"),
    [
        ("/models/my-Vicuna-dpo", "Vicuna", "vicuna_v1.1"),
        ("/models/llava-v1.5-7b", "llava-v1.5", "vicuna_v1.1"),
        ("/vicuna/exported", "vicuna", "vicuna_v1.1"),  # the whole path counts
        ("/results/checkpoints/exported", "points", "points-v15-chat"),
        ("/models/Qwen2-VL", "Qwen2-VL", "qwen2-vl"),
        ("/models/mistral-7b-instruct", "mistral-7b-instruct", "mistral"),
        ("/models/llava-onevision-qwen2-7b", "llava-onevision-qwen2", "chatml-llava"),
    ],
)
def test_names_that_choose_a_built_in_template(path: str, word: str, template: str) -> None:
    warning = name_warning(path)
    assert warning is not None
    assert f"built-in template {template} for a path that contains {word!r}" in warning
    assert f"--chat-template {path}/chat_template.jinja" in warning


@pytest.mark.parametrize(
    "path", ["/models/llava-1.5-7b-dpo", "/models/exported", "/models/llava-v15", "/models/mistral-llava"]
)
def test_other_names_are_fine(path: str) -> None:
    assert name_warning(path) is None


def test_a_relative_name_is_taken_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vicuna").mkdir()
    monkeypatch.chdir(tmp_path / "vicuna")
    assert name_warning("out") is not None
