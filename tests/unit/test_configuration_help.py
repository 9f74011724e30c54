"""What ``--help`` says of settings: derived from the types that check them, and of every setting there is."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import Field

from nemo_mm_align.cli.command import with_own_groups
from nemo_mm_align.cli.configuration_help import OneOf, Parts, Words, settings_at, settings_of, table, words_for
from nemo_mm_align.core.configuration import Count, Share, StrictModel
from nemo_mm_align.inference.settings import register_open_attributes
from nemo_mm_align.launch.settings import register_open_nodes
from nemo_mm_align.workflow.stages import STAGES

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[2] / "scripts").glob("*.py"))
CHOSEN = {
    "train": ["model=mini", "recipe=dpo"],
    "estimate": ["model=mini", "recipe=dpo"],
    "build": ["method=all_pairs"],
    "prepare": ["source=lrv"],
    "label": ["judge=gemini"],
    "launch": ["cluster=k8s"],
    "convert": ["model=mini", "template=vicuna_v1"],
    "doctor": ["judge=gemini"],
}
TAKEN_OVER = {"hydra", "judge", "task", "source", *STAGES}
"""Described elsewhere: a judge, an evaluation task and a source of data by its own file, a stage by its own command."""


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (bool, "true or false"),
        (Count, "whole number, at least 1"),
        (Share, "number, at least 0 and at most 1"),
        (Count | None, "whole number, at least 1, or null"),
        (str | int, "text or whole number"),
        (Path | None, "path, or null"),
        (Literal["a", "b"] | None, "one of a, b, or null"),
        (tuple[float, ...], "list, each number"),
        (list[Annotated[int, Field(gt=0)]], "list, each whole number, above 0"),
        (dict[str, int], "section of keys of your own"),
        (Any, "any value"),
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert words_for(hint) == words


class Inner(StrictModel):
    depth: Count
    kind: Literal["plain"]


class Other(StrictModel):
    kind: Literal["round"]
    radius: Share


class Outer(StrictModel):
    one: Inner
    maybe: Inner | None
    either: Inner | Other
    several: list[Inner]
    flat: Annotated[Any, Parts((Inner,), "somebody's own")]
    named: Annotated[Any, OneOf(lambda: {"plain": Inner, "round": Other})]
    spelt: Annotated[list[Inner], Words("list, each DEPTH:KIND")]
    renamed: bool = Field(alias="json")


def test_sections_of_every_kind() -> None:
    either = {"depth": "whole number, at least 1 (plain)", "kind": "one of plain, round"}
    inner = {"depth": "whole number, at least 1", "kind": "one of plain"}
    radius = {"radius": "number, at least 0 and at most 1 (round)"}
    expected = {f"one.{key}": words for key, words in inner.items()}
    expected |= {"maybe": "a section of the following, or null"}
    expected |= {f"maybe.{key}": words for key, words in inner.items()}
    expected |= {f"{name}.{key}": words for name in ("either", "named") for key, words in (either | radius).items()}
    expected |= {f"several[].{key}": words for key, words in inner.items()}
    expected |= {f"flat.{key}": words for key, words in inner.items()} | {"flat.*": "somebody's own"}
    expected |= {"spelt": "list, each DEPTH:KIND", "json": "true or false"}
    assert dict(settings_of(Outer)) == expected
    assert table([("a", "x"), ("long", "y")]) == "  a     x\n  long  y\n"


def types_of(script: str, repository: Path) -> list[str]:
    source = (repository / f"scripts/{script}.py").read_text()
    return re.findall(r'"(nemo_mm_align\.[\w.]+:\w+)"', source)


def leaves(values: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, name)
        else:
            yield name


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_shipped_setting_is_described(script: str, repository: Path) -> None:
    register_open_nodes()
    register_open_attributes()
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        composed = OmegaConf.to_container(
            compose(script, with_own_groups(CHOSEN.get(script, []), repository / "conf", script)), resolve=False
        )
    described = dict(settings_at(types_of(script, repository)))
    assert isinstance(composed, dict) and described
    open_sections = [
        key.removesuffix(".*") for key, words in described.items() if key.endswith(".*") or "your own" in words
    ]
    closed = [key for key, words in described.items() if words.startswith("a section")]
    for name in leaves({key: value for key, value in composed.items() if key not in TAKEN_OVER}):
        known = (
            name in described or name in closed or any(key.startswith((f"{name}[]", f"{name}.")) for key in described)
        )
        assert known or any(name == key or name.startswith(f"{key}.") for key in open_sections), name


@pytest.mark.parametrize("script", ["train", "build", "launch"])
def test_the_help_of_a_command_shows_them(script: str, repository: Path) -> None:
    shown = subprocess.run(
        [sys.executable, str(repository / f"scripts/{script}.py"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert table(settings_at(types_of(script, repository))) in shown
    assert (
        shown.index("Settings with their defaults") < shown.index("What they take:") < shown.index("Groups, chosen by")
    )


def test_a_recipe_of_ones_own_is_in_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = importlib.import_module("nemo_mm_align.recipes.registry")
    from tests.own_recipe.attribute_regression import RECIPE

    known = {**registry.all_recipes(), RECIPE.name: RECIPE}
    monkeypatch.setattr(registry, "all_recipes", lambda: known)
    described = dict(settings_at(["nemo_mm_align.training.sections:TopLevel"]))
    assert described["recipe.pooling"] == "one of last, mean (attribute_model, attribute_regression)"
    assert described["recipe.epochs"] == "number, above 0"
