"""Every file of conf/experiment: in step with its generator, composed, its layout possible, its memory within its GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_mm_align.capacity.estimate import estimate
from nemo_mm_align.capacity.experiments import CLUSTERS, MODELS, PRECISIONS
from nemo_mm_align.capacity.gpus import REFERENCE_GPU
from nemo_mm_align.capacity.run import compose_training, experiment_texts
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.core.units import gib
from nemo_mm_align.model.arithmetic import check_started_ranks
from nemo_mm_align.recipes.registry import paper_recipes

FOLDER = CONF / "experiment"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PAPER = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.glob("*/*.yaml"))
LEARNING_RATES = {"sft": 4e-4, "rejection": 4e-4, "steerlm": 4e-4, "dpo": 5e-5}


def test_files_are_what_the_generator_writes() -> None:
    texts = experiment_texts()
    assert sorted(texts) == sorted([*NAMES, *PAPER])
    different = [
        name for name in texts if (CONF / f"experiment/{name}.yaml").read_text(encoding="utf-8") != texts[name]
    ]
    assert not different, f"write them anew with scripts/estimate.py: {different}"


def test_every_recipe_model_cluster_and_precision_is_there() -> None:
    clusters = [f"{nodes}x{gpus}" for nodes, gpus in CLUSTERS]
    assert clusters == ["1x8", "2x8", "8x8"] and set(PRECISIONS) == {"", "_fp8"}
    large = {f"{r}_{m}_{c}{p}" for r in paper_recipes() for m in MODELS for c in clusters for p in PRECISIONS}
    small = {f"{r}_mini_1x{n}" for r in paper_recipes() for n in (2, 4)}
    assert len(large) == 48 and set(NAMES) == large | small


@pytest.mark.parametrize("name", NAMES)
def test_experiment(name: str) -> None:
    values = compose_training([f"experiment={name}"])
    recipe, model = values["recipe"]["name"], values["model"]
    nodes, gpus = (int(part) for part in name.removesuffix("_fp8").rsplit("_", 1)[1].split("x"))
    assert (values["name"], values["exp_manager"]["name"], recipe) == (name, name, name.split("_")[0])
    assert (values["trainer"]["num_nodes"], values["trainer"]["devices"]) == (nodes, gpus)
    assert values["data"]["train"] == values["exp_manager"]["exp_dir"] == "???"
    found = estimate(values, REFERENCE_GPU)  # checks layout and batch arithmetic
    assert found.fits, gib(found.peak)
    job = found.job
    assert job.world_size == nodes * gpus and job.row_length % job.length_multiple == 0
    longest = -(-model["max_length"] // job.length_multiple) * job.length_multiple
    assert longest <= job.config.language.max_position_embeddings
    if "mini" in name:
        assert Path(CONF.parent / model["hf_path"] / "config.json").is_file()
        return
    assert model["hf_path"] is None and model["checkpoint"] is None  # training asks for one of them
    assert model["name"] == name.split("_", 1)[1].rsplit("_", 2 if name.endswith("_fp8") else 1)[0]
    assert values["precision"].startswith("fp8") == name.endswith("_fp8")
    assert (model["global_batch_size"], model["max_length"]) == (128, 3000 if recipe == "dpo" else 2048)
    assert model["optim"]["lr"] == LEARNING_RATES[recipe] and model["optim"]["projector_lr"] == 2e-5
    assert (model["lora"]["rank"], model["lora"]["alpha"], values["recipe"]["epochs"]) == (128, 256, 3)


def test_every_training_of_the_paper_is_there_for_8_4_and_2_gpus() -> None:
    trainings = ("sft", "rejection", "steerlm", "dpo", "dpo_7b")
    assert sorted(f"paper/{training}{ending}" for training in trainings for ending in ("", "_1x4", "_1x2")) == PAPER


@pytest.mark.parametrize("name", PAPER)
def test_experiment_of_the_paper(name: str) -> None:
    values = compose_training([f"experiment={name}"])
    recipe, model, stem = values["recipe"], values["model"], name.removeprefix("paper/")
    method = stem.split("_")[0]
    assert values["name"] == values["exp_manager"]["name"] == name.replace("/", "_")
    assert recipe["name"] == {"steerlm": "steerlm_paper"}.get(method, method) and values["precision"] == "bf16"
    assert model["name"] == ("llava15_7b" if "7b" in stem else "llava15_13b")
    assert (values["trainer"]["num_nodes"], values["trainer"]["devices"]) == (
        1,
        {"1x4": 4, "1x2": 2}.get(stem[-3:], 8),
    )
    assert (model["lora"]["rank"], model["lora"]["alpha"], model["lora"]["dropout"]) == (128, 256, 0.05)
    assert model["lora"]["targets"] == ["q", "k", "v", "o", "gate", "up", "down"]
    optim = {key: model["optim"][key] for key in ("lr", "projector_lr", "weight_decay", "schedule", "warmup_ratio")}
    assert optim == {
        "lr": LEARNING_RATES[method], "projector_lr": 2e-5, "weight_decay": 0.0, "schedule": "cosine", "warmup_ratio": 0.03,
    }  # fmt: skip
    assert (recipe["epochs"], model["global_batch_size"]) == (3, 128)
    assert model["max_length"] == (3000 if method == "dpo" else 2048) and recipe.get("beta", 0.1) == 0.1
    assert values["attribute_schema"]["name"] == "helpsteer" and not values["attribute_schema"].get("steered")
    assert estimate(values, REFERENCE_GPU).fits


def test_what_the_paper_does_not_publish_is_said() -> None:
    for name in PAPER:
        unknown = "publishes neither beta nor learning rate" in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        assert unknown == ("7b" in name), name


@pytest.mark.parametrize("name", ["dpo_llava15_13b_2x8", "steerlm_llava15_7b_1x8_fp8"])
def test_values_on_the_command_line_win(name: str) -> None:
    values = compose_training([f"experiment={name}", "model.micro_batch_size=2", "recipe.epochs=1", "name=mine"])
    assert (values["model"]["micro_batch_size"], values["recipe"]["epochs"], values["name"]) == (2, 1, "mine")


def test_refuses_another_number_of_processes() -> None:
    trainer = compose_training(["experiment=sft_mini_1x4"])["trainer"]
    check_started_ranks(trainer, 4)
    check_started_ranks(trainer | {"num_nodes": None}, 3)
    with pytest.raises(UserError, match="devices=4 = 4 ranks, but 2 were started"):
        check_started_ranks(trainer, 2)
