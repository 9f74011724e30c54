"""Who is shown whose pictures, and what numbers become scores."""

from __future__ import annotations

import math

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.derangement import derange
from nemo_mm_align.inference.scores import predicted, scores
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema

PICTURES = [("a",), (), ("b",), ("a",), ("c", "d"), ("b",), ("d", "c"), ("e",), ()]


@pytest.mark.parametrize("seed", range(20))
def test_each_prompt_is_shown_as_many_other_pictures_and_every_prompt_lends_its_own_once(seed: int) -> None:
    shown = derange(PICTURES, seed)
    assert sorted(shown) == list(range(len(PICTURES)))
    for place, other in enumerate(shown):
        assert len(PICTURES[other]) == len(PICTURES[place])
        assert PICTURES[other] != PICTURES[place] or (not PICTURES[place] and other == place)
    assert shown == derange(PICTURES, seed)


def test_the_seed_chooses() -> None:
    pictures = [(str(number),) for number in range(10)]
    assert len({tuple(derange(pictures, seed)) for seed in range(10)}) == 10


@pytest.mark.parametrize(
    ("pictures", "fault"),
    [
        ([("a",)], "of 1 prompts with 1 pictures each, 1 have the same ones"),
        ([("a",), ("a",), ("b",)], "of 3 prompts with 1 pictures each, 2 have the same ones"),
        ([("a",), ("b",), ("c", "d")], "of 1 prompts with 2 pictures each"),
        ([(), ()], "no prompt has a picture"),
    ],
)
def test_where_one_would_keep_its_own_that_is_said(pictures: list[tuple[str, ...]], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        derange(pictures, 0)


SCHEMA = AttributeSchema(
    name="own",
    attributes=(
        Attribute(name="depth", minimum=1, maximum=5),
        Attribute(name="share", minimum=0, maximum=1, integer=False),
    ),
    score=("depth",),
)


@pytest.mark.parametrize(
    ("outputs", "told", "rated"),
    [
        ([2.40004, 0.123456], [2.4, 0.1235], [2, 0.1235]),
        ([7.9, 1.5], [5.0, 1.0], [5, 1.0]),
        ([-3.0, -0.2], [1.0, 0.0], [1, 0.0]),
        ([2.5, 0.0], [2.5, 0.0], [2, 0.0]),
        ([3.5, 0.0], [3.5, 0.0], [4, 0.0]),
    ],
)
def test_numbers_are_brought_into_the_range_and_to_the_nearest_score(
    outputs: list[float], told: list[float], rated: list[float]
) -> None:
    found = predicted(SCHEMA, outputs)
    assert list(found.values()) == told
    assert list(scores(SCHEMA, found).values()) == rated
    assert SCHEMA.check(scores(SCHEMA, found))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="no finite numbers"):
        predicted(SCHEMA, [1.0, value])
