"""The table of stages against what scripts, configurations and the launcher are; what a training tells the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from nemo_mm_align.launch.compose import compose_stage
from nemo_mm_align.recipes.registry import all_recipes, find_recipe
from nemo_mm_align.workflow.stages import STAGES, Stage
from nemo_mm_align.workflow.wiring import DEFAULT_SCHEMA, Wiring

HUGGING_FACE = {"checkpoint": "/llava", "template": "vicuna_v1"}
LAYOUT = {"tensor_model_parallel_size": 2}


CHOSEN = {"train": ["model=mini", "recipe=dpo"], "label": ["judge=oracle"], "build": ["method=preference"]}


def written(stage: Stage) -> dict[str, Any]:
    """A stage's configuration, as it is written."""
    values = OmegaConf.to_container(compose_stage(stage.name, CHOSEN.get(stage.name, [])).config)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stage_has_a_script_and_the_keys_of_its_files(stage: Stage, repository: Path) -> None:
    assert (repository / stage.script).is_file()
    for key in (*stage.reads, stage.out):
        *sections, name = key.split(".")
        section = written(stage)
        for part in sections:
            section = section[part]
        assert name in section, key


def test_stages_with_ranks_are_those_that_set_a_layout() -> None:
    laid_out = {
        name for name, stage in STAGES.items() if name == "train" or "tensor_model_parallel_size" in written(stage)
    }
    assert {name for name, stage in STAGES.items() if stage.ranked} == laid_out


def test_the_launcher_hands_files_on_as_the_table_says(repository: Path) -> None:
    """Each file that a stage reads is what a stage before it writes, or what that stage was given itself."""
    launch = OmegaConf.load(repository / "conf/launch.yaml")
    launch.merge_with(
        {
            "base_results_dir": "/r",
            "run": {"name": "first"},
            "sample": {"prompts": "/prompts.jsonl"},
            "generate": {"prompts": "/heldout.jsonl"},
        }
    )
    outputs: dict[str, set[str]] = {}
    for name, stage in STAGES.items():
        outputs.setdefault(stage.writes, set()).add(OmegaConf.select(launch, f"{name}.{stage.out}"))
        for key, kind in stage.reads.items():
            value = OmegaConf.select(launch, f"{name}.{key}")
            if value is None or kind == "prompts":
                continue  # the model and its answers follow from the training, see below
            assert value in outputs[kind], (name, key)
    assert {kind: len(paths) for kind, paths in outputs.items()} == dict.fromkeys(outputs, 1)


@pytest.mark.parametrize("name", all_recipes())
def test_every_recipe_tells_the_stages_around_it(name: str) -> None:
    recipe = find_recipe(name)
    wiring = Wiring(recipe, HUGGING_FACE, Path("/r/run"), LAYOUT)
    assert wiring.values("sample") == HUGGING_FACE | LAYOUT
    assert wiring.values("annotate") == LAYOUT
    assert wiring.values("generate") == {"checkpoint": "/r/run"} | LAYOUT
    assert wiring.values("build") == {"method": recipe.build_method}
    assert wiring.values("label") == wiring.values("train") == wiring.values("evaluate") == {}
    assert wiring.answers("/a.jsonl") == {"answers": {name: "/a.jsonl"}}


@pytest.mark.parametrize(
    ("recipe", "schema", "told"),
    [
        ("dpo", "mine", {"sample", "label", "build", "train", "generate", "evaluate"}),
        ("dpo", DEFAULT_SCHEMA, set()),
        ("steerlm", DEFAULT_SCHEMA, {"build"}),
        ("steerlm", None, set()),
    ],
)
def test_a_schema_that_is_no_default_is_told_to_whom_it_concerns(
    recipe: str, schema: str | None, told: set[str]
) -> None:
    wiring = Wiring(find_recipe(recipe), {}, Path("/r/run"), {}, schema)
    assert {stage for stage in STAGES if "attribute_schema" in wiring.values(stage)} == told
