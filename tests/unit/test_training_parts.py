"""Parts of a training run that need no process group."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_files import METRICS_FILE, read_metrics
from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, LoRAConfig, VisionConfig
from nemo_mm_align.parallel import checkpoint
from nemo_mm_align.parallel.fingerprint import fingerprint_folder
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.parallel.optimizer import Schedule
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.training.data import BatchShape, Collator
from nemo_mm_align.training.known_settings import differing_sizes
from nemo_mm_align.training.record import idle_levers
from nemo_mm_align.training.reference import ReferenceCache, settings_key
from tests.checkpoint_files import write_checkpoint


def sizes(layers: int = 4) -> LlavaConfig:
    return LlavaConfig(LanguageConfig(layers, 48, 80, 4, 99), VisionConfig(3, 32, 64, 4, 28, 14), image_token_id=98)


def metadata(step: int, **changes: object) -> checkpoint.CheckpointMetadata:
    values = dict(
        step=step, model=sizes().to_dict(), lora=None, template={}, attribute_schema=None, image_processor={}, recipe={},
        base_path="", base_fingerprint="", precision="fp32",
    )  # fmt: skip
    return checkpoint.CheckpointMetadata.model_validate(values | changes)


def test_cosine_with_warm_up_gives_each_group_its_own_rate() -> None:
    optimizer = SimpleNamespace(param_groups=[{"max_lr": 1.0, "min_lr": 0.0}, {"max_lr": 0.25, "min_lr": 0.0}])
    schedule = Schedule(optimizer, OptimConfig(lr=1.0, warmup_ratio=0.2), total_steps=10)
    rates = []
    for step in range(10):
        schedule.set_step(step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates[0][0] == pytest.approx(0.5)
    assert rates[1][0] == pytest.approx(1.0)
    assert rates[5][0] == pytest.approx(0.5 * (1 + math.cos(math.pi * 4 / 9)))
    assert 0 < rates[9][0] < 0.05
    assert all(projector == pytest.approx(main / 4) for main, projector in rates)


def test_only_complete_checkpoints_are_found(tmp_path: Path) -> None:
    for step in (4, 8):
        write_checkpoint(tmp_path, metadata(step))
    (tmp_path / "step_00000012.partial").mkdir()
    (tmp_path / "step_00000016").mkdir()  # no metadata: a copy that was cut short
    assert checkpoint.latest_checkpoint(tmp_path) == checkpoint.step_folder(tmp_path, 8)
    assert checkpoint.latest_checkpoint(tmp_path.parent / "nothing") is None
    with pytest.raises(UserError, match="not a complete checkpoint"):
        checkpoint.read_metadata(tmp_path / "step_00000016")


def test_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    checkpoint.check_same_model(metadata(1), sizes(), tmp_path)
    with pytest.raises(UserError, match=r"checkpoint of another model: language.num_layers 4 \(here 6\)"):
        checkpoint.check_same_model(metadata(1), sizes(layers=6), tmp_path)


def test_sizes_that_differ_from_the_folders_are_named() -> None:
    unsaid = replace(sizes(), language=replace(sizes().language, head_dim=12))
    assert differing_sizes(sizes(), unsaid) == []
    smaller = replace(sizes(layers=6), vision=replace(sizes().vision, image_size=14))
    expected = ["language.num_layers 4 (there 6)", "vision.image_size 28 (there 14)"]
    assert differing_sizes(sizes(), smaller) == expected


def test_fingerprint_follows_content_and_names(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 3_000_000)
    first = fingerprint_folder(tmp_path)
    assert fingerprint_folder(tmp_path) == first
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(10)
        file.write(b"y")
    assert fingerprint_folder(tmp_path) != first
    assert fingerprint_folder(tmp_path / "empty") == ""


def test_reference_cache_joins_replicas_and_leaves_out_a_torn_line(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path, settings_key(weights="w", precision="fp32"))
    (tmp_path / f"{cache.key}.00000.jsonl").write_text(
        '{"sample": "a", "log_probs": [-1.0, -2.0]}\n{"sample": "b", "lo'
    )
    (tmp_path / f"{cache.key}.00001.jsonl").write_text('{"sample": "c", "log_probs": [-3.0, -4.0]}\n')
    assert cache.read() == {"a": [-1.0, -2.0], "c": [-3.0, -4.0]}
    assert settings_key(weights="other", precision="fp32") != cache.key


@pytest.mark.parametrize(("size", "images"), [(336, 792), (28, 114130)])
def test_decoded_images_that_are_remembered_have_a_bound_in_bytes(size: int, images: int) -> None:
    collator = Collator(None, ImageProcessor(image_size=size), BatchShape(), with_images=True)  # type: ignore[arg-type]
    assert collator._pixels.cache_info().maxsize == images
    assert images * 3 * size**2 * 4 <= 1 << 30


def test_metrics_are_read_up_to_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    assert read_metrics(path) == []
    path.parent.mkdir()
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize(
    ("recipe", "lora", "tokens", "idle"),
    [
        ("sft", None, None, {"lora", "dropout", "attention"}),
        ("sft", LoRAConfig(dropout=0.0), 4096, {"dropout"}),
        ("dpo", LoRAConfig(), None, set()),
        ("attribute_model", LoRAConfig(), 4096, {"losses"}),
    ],
)
def test_levers_that_have_nothing_to_act_on(
    recipe: str, lora: LoRAConfig | None, tokens: int | None, idle: set[str]
) -> None:
    model = SimpleNamespace(lora=lora, micro_batch_tokens=tokens)
    settings = SimpleNamespace(model=model, recipe=find_recipe(recipe).configured())
    assert idle_levers(settings) == idle  # type: ignore[arg-type]


def test_unknown_method_and_bad_beta_are_named() -> None:
    with pytest.raises(UserError, match="recipe.name='ppo': choose from"):
        find_recipe("ppo")
    with pytest.raises(UserError, match=r"recipe.beta=0.0: must be above 0"):
        find_recipe("dpo").configured(beta=0.0)
    with pytest.raises(UserError, match=r"model.optim.lr=0"):
        OptimConfig(lr=0)


def test_every_recipe_composes_with_every_model(repository: Path) -> None:
    from hydra import compose, initialize_config_dir

    from nemo_mm_align.training.settings import read_settings

    expected = {"sft": (4e-4, 2048), "rejection": (4e-4, 2048), "steerlm": (4e-4, 2048), "dpo": (5e-5, 3000)}
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        for recipe, (rate, length) in expected.items():
            for model in ("llava15_7b", "llava15_13b", "smollm2_llava", "mini"):
                arguments = [f"recipe={recipe}", f"model={model}", "data.train=x.jsonl", "exp_manager.exp_dir=y"]
                settings = read_settings(compose("train", overrides=arguments))
                assert (settings.model.optim.lr, settings.plan.max_length) == (rate, length)
                lora, optim = settings.model.lora, settings.model.optim
                assert (lora.rank, lora.alpha, optim.projector_lr) == (128, 256, 2e-5)
                assert json.loads(json.dumps(asdict(settings.recipe)))["name"] == settings.spec.name == recipe
                assert settings.recipe.rows_shared == (recipe == "dpo") and not settings.recipe.reference_stored
