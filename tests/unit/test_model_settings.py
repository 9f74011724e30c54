"""Sizes of a training's model: of the chosen group, else of the folder alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.model.huggingface_config import llava_config_from_hf
from nemo_mm_align.model.settings import read_model, sizes_of
from nemo_mm_align.training.settings import read_settings

GIVEN = ["recipe=sft", "data.train=none.jsonl", "exp_manager.exp_dir=results"]


def training(repository: Path, *words: str) -> DictConfig:
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        return compose("train", [*GIVEN, *words])


@pytest.fixture
def base(repository: Path) -> Path:
    return repository / "nemo_mm_align/miniature/base"


def test_a_folder_alone_is_enough(repository: Path, base: Path) -> None:
    config = training(repository, f"model.hf_path={base}")
    assert read_settings(config).sizes is None
    model = OmegaConf.to_container(config.model)
    assert isinstance(model, dict)
    assert read_model(model).sizes is None and sizes_of(model) == llava_config_from_hf(base)


def test_a_group_says_what_it_always_did(repository: Path, base: Path) -> None:
    config = training(repository, "model=mini", f"model.hf_path={base}")
    found = read_settings(config).sizes
    assert isinstance(found, LlavaConfig) and found == sizes_of(OmegaConf.to_container(config.model))  # type: ignore[arg-type]
    assert replace(found, name="base") == llava_config_from_hf(base)


def test_neither_is_a_message_with_the_names(repository: Path) -> None:
    config = training(repository)
    with pytest.raises(
        UserError, match=r"no model is chosen: give model=NAME, one of llava15_13b, .*or model\.hf_path=FOLDER"
    ):
        sizes_of(OmegaConf.to_container(config.model))  # type: ignore[arg-type]
