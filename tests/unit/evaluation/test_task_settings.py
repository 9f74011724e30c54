"""Sections of several tasks in one run, and what a name may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.evaluation.generating import generate_for
from nemo_mm_align.evaluation.task_settings import known_tasks, task_sections

MINIATURE = "nemo_mm_align.miniature.task.MiniatureTask"


@pytest.fixture
def own(tmp_path: Path) -> list[Path]:
    """A folder of somebody's own before the package's."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task/mine.yaml").write_text("_target_: a.B\ndata: ???\nsplits: [x, y]\ncut: {at: 5, by: words}\n")
    return [tmp_path, CONF]


def test_each_task_is_its_file_under_what_is_said_of_it(own: list[Path]) -> None:
    said = {
        "miniature": None,
        "mine": {"data": "d", "cut": {"at": 7}},
        "again": {"task": "mine", "data": "e", "splits": ["z"]},
    }
    assert task_sections(said, own) == {
        "miniature": {"_target_": MINIATURE},
        "mine": {"_target_": "a.B", "data": "d", "splits": ["x", "y"], "cut": {"at": 7, "by": "words"}},
        "again": {"_target_": "a.B", "data": "e", "splits": ["z"], "cut": {"at": 5, "by": "words"}},
    }
    assert task_sections({"elsewhere": {"_target_": "c.D", "n": 1}}, own) == {"elsewhere": {"_target_": "c.D", "n": 1}}


def test_a_folder_of_ones_own_comes_first(own: list[Path]) -> None:
    (own[0] / "task/attributes.yaml").write_text("_target_: mine.Own\n")
    assert task_sections({"attributes": {}}, own) == {"attributes": {"_target_": "mine.Own"}}
    assert task_sections(["attributes"], own) == task_sections({"attributes": None}, own)
    assert known_tasks(own)["miniature"] == CONF / "task/miniature.yaml"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({}, "tasks names no task"),
        ("attributes", "tasks names no task"),
        ({"atributes": {}}, "tasks.atributes: there is no such task. Did you mean attributes?"),
        ({"x": {"task": "min"}}, "tasks.x.task=min: there is no such task. Did you mean mine?"),
        ({"mine": {}}, "tasks.mine.data has no value. Give it: 'tasks={mine: {data: ...}}'."),
        ({"mine": 3}, "tasks.mine=3: must hold the task's settings"),
        ({"a/b": {"task": "mine"}}, "tasks.a/b: files are called so"),
    ],
)
def test_mistakes_name_the_remedy(own: list[Path], said: dict, text: str) -> None:
    with pytest.raises(UserError) as caught:
        task_sections(said, own)
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["dpo_unasked", "a/b"])
def test_names_that_would_hide_other_answers_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"checkpoints.{name}: "):
        generate_for({name: tmp_path}, {"attributes": {}}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
