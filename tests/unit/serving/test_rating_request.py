"""What a request for ratings may hold, found before anything of it is read."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.rating_request import ClassifyBody, read_ratings
from tests.unit.serving.toy_model import assistant, served, user

RATED = [user("What is it?"), assistant("A cat.")]


@pytest.mark.parametrize(
    ("one", "four"),
    [
        ({"input": [5, 6]}, {"input": [[5, 6]] * 4}),
        ({"input": "a"}, {"input": ["a"] * 4}),
        ({"messages": RATED}, {"messages": [RATED] * 4}),
    ],
)
def test_one_request_has_so_many_answers(one: dict[str, Any], four: dict[str, Any]) -> None:
    assert len(read_ratings(one, ClassifyBody, served(), 1).places) == 1
    assert len(read_ratings(four, ClassifyBody, served(), 4).places) == 4
    with pytest.raises(ApiError, match="4 answers at once, and room for 3: ask for fewer"):
        read_ratings(four, ClassifyBody, served(), 3)
