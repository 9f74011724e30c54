"""Sizes of a training's model: of the chosen group, else of the folder alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.capacity.job import read_job
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model import config as model_config
from nemo_mm_align.model.config import EngineConfig, Levers, LlavaConfig, ParallelConfig
from nemo_mm_align.model.huggingface_config import llava_config_from_hf
from nemo_mm_align.model.settings import read_model, sizes_of
from nemo_mm_align.model.transformer_configs import language_config, vision_config
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


def test_levers_are_read_where_the_model_is_built_and_where_it_is_estimated(repository: Path) -> None:
    config = training(repository, "model=mini", "model.hf_path=x", "model.levers.lora=true", "model.levers.mlp=false")
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    expected = Levers(lora=True, mlp=False)
    assert read_settings(config).engine.levers == expected == read_settings(config).model.levers
    assert read_job(values, 1, 1).engine.levers == expected  # type: ignore[arg-type]
    del values["model"]["levers"]  # as an earlier version wrote it
    assert read_job(values, 1, 1).engine.levers == Levers()  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["model.levers.lora=on", "+model.levers.lore=true", "model.levers=true"])
def test_a_misread_lever_is_named(repository: Path, word: str) -> None:
    config = training(repository, "model=mini", "model.hf_path=x", word)
    with pytest.raises(UserError, match=r"model\.levers"):
        read_settings(config)


def test_attention_without_a_mask_is_on_by_itself_where_it_was_measured() -> None:
    assert Levers().on("cpu") == {"attention"} and Levers().on("cuda") == set()
    assert Levers(attention=False).on("cpu") == set()


def test_levers_that_are_left_open_are_pulled_where_they_pay(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_config, "LEVERS_THAT_PAY", {"cpu": frozenset({"mlp", "lora"})})
    levers = Levers(rope=True, lora=False)
    assert levers.on("cpu") == {"mlp", "rope"} and levers.on("cuda") == {"rope"}
    sizes = read_settings(training(repository, "model=mini", "model.hf_path=x")).sizes
    assert sizes is not None
    engine = EngineConfig(transformer_impl="local", levers=levers)
    assert language_config(sizes, ParallelConfig(), engine).levers == {"mlp", "rope"}
    assert vision_config(sizes, ParallelConfig(), engine).levers == set()
