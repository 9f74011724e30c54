"""Every file of conf/recipe as it is, on the miniature's base and on a tiny Hugging Face LLaVA: two steps and a checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from nemo_mm_align.datasets.kinds import (
    ANSWERS,
    ATTRIBUTE_PAIRS,
    ATTRIBUTED_ANSWERS,
    IMAGE_PAIRS,
    LABELLED_ANSWERS,
    PAIRS,
    RATED_ANSWERS,
    SCORED_PAIRS,
    WEIGHED_ANSWERS,
)
from nemo_mm_align.miniature.folders import SHIPPED_BASE
from nemo_mm_align.objectives.preference import PairObjective
from nemo_mm_align.parallel.source import open_source
from nemo_mm_align.recipes.registry import all_recipes
from tests.golden.runs import losses
from tests.golden.worker import run_scripts
from tests.parallel.test_attribute_model import rated_data
from tests.parallel.test_conditioned import conditioned
from tests.tiny import tiny_llava, training_data

pytestmark = pytest.mark.parallel

DATA = {
    ANSWERS: "sft",
    ATTRIBUTED_ANSWERS: "steerlm",
    PAIRS: "preference",
    IMAGE_PAIRS: "preference",
    SCORED_PAIRS: "scored",
    ATTRIBUTE_PAIRS: "attribute_dpo",
    RATED_ANSWERS: "rated",
    LABELLED_ANSWERS: "labelled",
    WEIGHED_ANSWERS: "steerlm2",
}
"""Kind of sample -> a file of it in `inputs`."""
SIZES = [
    "trainer.max_steps=2",
    "model.global_batch_size=4",
    "model.max_length=200",
    "precision=fp32",
    "health.image_probe=2",
]
"""What a machine's size and a model's decide; all else is the recipe's own."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_llava(folder / "tiny")
    (folder / "miniature").symlink_to(SHIPPED_BASE)
    training_data(folder, "sft")
    conditioned(folder / "taste")
    training_data(folder, "steerlm")
    pairs = [json.loads(line) for line in training_data(folder, "preference").read_text().splitlines()]
    scored = [json.dumps(pair | {"chosen_score": 9, "rejected_score": 2 + n % 4}) for n, pair in enumerate(pairs)]
    (folder / "scored.jsonl").write_text("\n".join(scored))
    training_data(folder, "labelled")
    rated_data(folder)
    return folder


def data_of(recipe: str, inputs: Path) -> Path:
    """The paper's recipe wants all five attributes, the others two of them."""
    spec = all_recipes()[recipe]
    folder = inputs / "taste" if spec.samples.attributed and recipe != "steerlm_paper" else inputs
    return folder / f"{DATA[spec.samples]}.jsonl"


def tried(model: str) -> list[str]:
    """All on the miniature; on the other model one of those on pairs that differ by the formula alone."""
    if model == "miniature":
        return sorted(all_recipes())
    kinds = {
        (spec.samples, spec.objective.needs_reference) if issubclass(spec.objective, PairObjective) else name: name
        for name, spec in all_recipes().items()
    }
    return sorted(kinds.values())


@pytest.mark.parametrize("model", ["miniature", "tiny"])
def test_it_trains_as_its_file_says(model: str, inputs: Path, tmp_path: Path) -> None:
    recipes = [path.stem for path in (Path(__file__).parents[2] / "conf/recipe").glob("*.yaml")]
    assert sorted(recipes) == sorted(all_recipes())
    recipes = tried(model)
    words = [f"model.hf_path={inputs / model}", f"exp_manager.exp_dir={tmp_path}", *SIZES]
    words.append("exp_manager.create_tensorboard_logger=false")
    calls = [("train.py", [f"recipe={recipe}", *words, f"data.train={data_of(recipe, inputs)}"]) for recipe in recipes]
    run_scripts(tmp_path, calls)
    for recipe in recipes:
        assert all(map(math.isfinite, losses(tmp_path / recipe)["loss"])), recipe
        trained = open_source(tmp_path / recipe)
        assert trained.metadata is not None and trained.metadata.step == 2
        assert trained.metadata.recipe["name"] == recipe
        assert (trained.asking is not None) == all_recipes()[recipe].samples.attributed
        assert (trained.head is not None) == all_recipes()[recipe].rates
        assert (tmp_path / recipe / "reference_log_probs").exists() == all_recipes()[recipe].objective.needs_reference
