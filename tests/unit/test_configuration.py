"""From plain values to typed settings: what is taken, what is refused, and in which words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import pytest
from pydantic import ConfigDict, Field, field_validator

from nemo_mm_align.core.configuration import (
    STRICT,
    Count,
    Positive,
    StrictModel,
    check_arguments,
    read,
    read_known,
    read_together,
)
from nemo_mm_align.core.errors import UserError


@dataclass(frozen=True)
class Oven:
    """A section that is a dataclass."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    degrees: Positive
    fan: bool = False
    times: tuple[int, ...] = (1, 2)


class Slow(StrictModel):
    kind: Literal["slow"]
    hours: Count = 2


class Fast(StrictModel):
    kind: Literal["fast"]
    minutes: Count = 5


class Bread(StrictModel):
    """A whole configuration."""

    name: str
    out: Path | None = None
    rise: Literal["cold", "warm"] = "warm"
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    oven: Oven | None = None
    rest: Annotated[Slow | Fast, Field(discriminator="kind")] = Fast(kind="fast")
    tags: list[str] = []
    choice: int | str = 1
    keys: dict[str, str] = {}
    secret_key: str = ""

    @field_validator("name")
    @classmethod
    def _short(cls, name: str) -> str:
        if len(name) > 5:
            raise ValueError("is too long for a label")
        return name


def refused(values: Any, kind: Any = Bread, where: str = "") -> str:
    with pytest.raises(UserError) as caught:
        read(kind, values, where)
    return str(caught.value)


def test_what_is_validated_is_what_is_used() -> None:
    found = read(Bread, {"name": "rye", "out": "a/b", "oven": {"degrees": 220, "times": [3]}, "rest": {"kind": "slow"}})
    assert found == Bread(name="rye", out=Path("a/b"), oven=Oven(220.0, times=(3,)), rest=Slow(kind="slow"))
    assert isinstance(found.oven, Oven) and isinstance(found.oven.degrees, float) and found.oven.times == (3,)
    with pytest.raises(ValueError, match="frozen"):
        found.name = "white"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "name has no value. Give it on the command line: name=..."),
        ({"name": 3}, "name=3: must be a text; one that looks like a number or a word of YAML's takes quotes"),
        ({"name": "pumpernickel"}, "name: is too long for a label."),
        ({"nmae": "rye"}, "configuration has no key nmae. Did you mean name? Known here: choice, keys, name, out, oven"),
        ({"name": "rye", "rise": "hot"}, "rise='hot': choose from cold, warm."),
        ({"name": "rye", "share": 2}, "share=2: must be at most 1."),
        ({"name": "rye", "share": math.nan}, "share=NaN: must be a"),
        ({"name": "rye", "tags": "a"}, "tags='a': must be a list, [A,B]."),
        ({"name": "rye", "out": ""}, "out='': must be a path; null is none."),
        ({"name": "rye", "oven": {"degrees": 0}}, "oven.degrees=0: must be above 0."),
        ({"name": "rye", "oven": {"degrees": 200, "fan": "false"}}, "oven.fan='false': must be true or false, without quotes;"),
        ({"name": "rye", "oven": {"degrees": 200, "times": [1, 2.5]}}, "oven.times.1=2.5: must be a whole number, without point"),
        ({"name": "rye", "oven": {"degree": 200}}, "configuration has no key oven.degree. Did you mean degrees?"),
        ({"name": "rye", "oven": 200}, "oven=200: is a section; give its keys one by one, oven.KEY=VALUE."),
        ({"name": "rye", "rest": {"kind": "slow", "hours": 0}}, "rest.hours=0: must be at least 1."),
        ({"name": "rye", "rest": {"kind": "slow", "minutes": 9}}, "configuration has no key rest.minutes. Known"),
        ({"name": "rye", "rest": {"kind": "sourdough"}}, "rest.kind='sourdough': choose from slow, fast."),
        ({"name": "rye", "choice": True}, "choice=true: must be a whole number"),
        ({"name": "rye", "keys": {1: "a", "1": "b"}}, "keys: has a key twice, once as a number and once as a text."),
        ({"name": "rye", "secret_key": 12345}, "secret_key=...: must be a text"),
        ({"name": "\udcff"}, "name='\\udcff': holds bytes that are not UTF-8. Rename it."),
        ([], "the configuration=[]: is a section; give its keys one by one, KEY=VALUE."),
    ],
)  # fmt: skip
def test_a_fault_is_said_with_key_value_and_what_it_must_be(values: Any, said: str) -> None:
    assert refused(values).startswith(said)


def test_the_name_of_a_section_stands_before_its_keys() -> None:
    assert refused({"degrees": -1}, Oven, "kitchen.oven") == "kitchen.oven.degrees=-1: must be above 0."


def test_one_flat_section_makes_several_objects() -> None:
    oven, fast = read_together([Oven, Fast], {"degrees": 180, "kind": "fast", "minutes": 7}, "bake")
    assert (oven, fast) == (Oven(180.0), Fast(kind="fast", minutes=7))
    with pytest.raises(UserError, match=r"no key bake.minute. Did you mean minutes\?"):
        read_together([Oven, Fast], {"degrees": 180, "kind": "fast", "minute": 7}, "bake")


def test_keys_of_others_are_left_to_them() -> None:
    assert read_known(Oven, {"degrees": 180, "colour": "red"}, "oven") == Oven(180.0)
    with pytest.raises(UserError, match="oven='hot': is a section"):
        read_known(Oven, "hot", "oven")


class Baker:
    def __init__(
        self, name: str, loaves: int = 1, extra: Mapping[str, Any] | None = None, schema: object = None
    ) -> None:
        self.given = (name, loaves, extra, schema)


def anything(**settings: Any) -> Mapping[str, Any]:
    return settings


def test_arguments_of_a_class_are_checked_by_their_types() -> None:
    check_arguments(Baker, {"name": "Ann", "extra": {"a": 1}}, "baker", taken=["schema"])
    for values, said in (
        ({"name": "Ann", "loaves": "two"}, "baker.loaves='two': must be a whole number"),
        ({"name": "Ann", "loafs": 2}, r"no key baker.loafs. Did you mean loaves\?"),
        ({"loaves": 2}, "baker.name has no value"),
        ({"name": "Ann", "schema": 1}, "no key baker.schema"),
    ):
        with pytest.raises(UserError, match=said):
            check_arguments(Baker, values, "baker", taken=["schema"])
    check_arguments(anything, {"whatever": [1]}, "baker")


class Client(Protocol):
    def call(self) -> None: ...


class Apprentice(Baker):
    """Takes the arguments of a baker; a field of that name is something else."""

    loaves: str = "many"


class WithClient:
    def __init__(self, name: str, client: Client | None = None, share: float = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
        self.given = (name, client, share)


def test_classes_of_somebody_elses_are_checked_as_far_as_their_types_are_known() -> None:
    check_arguments(Apprentice, {"name": "Ann", "loaves": 3}, "baker", taken=["schema"])
    with pytest.raises(UserError, match="baker.loaves='3': must be a whole number"):
        check_arguments(Apprentice, {"name": "Ann", "loaves": "3"}, "baker", taken=["schema"])
    check_arguments(WithClient, {"name": "Ann", "share": None}, "baker")
    check_arguments(WithClient, {"name": "Ann", "client": "anything"}, "baker")
    with pytest.raises(UserError, match="baker.name=1: must be a text"):
        check_arguments(WithClient, {"name": 1}, "baker")


def test_a_section_that_may_hold_a_key_is_not_shown() -> None:
    with pytest.raises(UserError) as caught:
        read_known(Oven, "NAME=topsecret", "env_vars")
    assert "topsecret" not in str(caught.value)


def test_a_word_may_stand_in_the_place_of_a_section():
    class Inner(StrictModel):
        url: str

    class Outer(StrictModel):
        scorer: Literal["oracle"] | Inner | None = None

    assert read(Outer, {"scorer": "oracle"}).scorer == "oracle"
    assert read(Outer, {"scorer": None}).scorer is None
    assert read(Outer, {"scorer": {"url": "a"}}).scorer == Inner(url="a")
    with pytest.raises(UserError, match=r"scorer='oracel': must be oracle, or a section"):
        read(Outer, {"scorer": "oracel"})
    with pytest.raises(UserError, match=r"scorer.urk"):
        read(Outer, {"scorer": {"urk": "a"}})
