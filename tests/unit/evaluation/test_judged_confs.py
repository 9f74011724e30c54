"""conf/task of the judged tasks: every key is an argument with its type, and what has no value is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.tasks.task import AsksJudge, BringsPrompts, FieldFiles, build_task
from nemo_mm_align.schema.attributes import AttributeSchema

NEEDED = {
    "mt_bench": ["data"],
    "mm_vet": ["data", "examples"],
    "llava_bench": ["data"],
    "own_rubric": ["data", "rubric"],
}


def section(repository: Path, name: str, *words: str) -> dict:
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        config = compose("evaluate", [f"task={name}", *words])
    return OmegaConf.to_container(config.task)


@pytest.mark.parametrize("name", NEEDED)
def test_a_task_is_built_of_its_configuration(name: str, repository: Path, helpsteer: AttributeSchema) -> None:
    values = section(repository, name, *(f"task.{key}=somewhere" for key in NEEDED[name]))
    task = build_task(values, helpsteer)
    assert task.name == name and isinstance(task, BringsPrompts) and isinstance(task, AsksJudge)
    assert isinstance(task, FieldFiles) == (name != "own_rubric")
    assert not any(value == "???" for value in values.values())


def test_a_word_that_is_no_choice_is_told(repository: Path, helpsteer: AttributeSchema) -> None:
    values = section(repository, "mt_bench", "task.data=x", "task.rating=best")
    with pytest.raises(UserError, match=r"task.rating"):
        build_task(values, helpsteer)
