"""Who gets whose images: as many, others by their content, seeded, each set given away once."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.schema.prompts import EncodedSequence
from nemo_mm_align.training.image_probe import Exchange, draw_exchanges


def samples(*images: str) -> list[Sample]:
    """A sample per word, an image per letter; the letter is its content."""
    return [
        Sample(str(place), [Path(f"{place}-{n}-{letter}.png") for n, letter in enumerate(word)],
               [EncodedSequence([1, 2], [False, True])])
        for place, word in enumerate(images)
    ]  # fmt: skip


def content(path: Path) -> str:
    return path.stem[-1]


def letters(sample: Sample) -> str:
    return "".join(map(content, sample.image_paths))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "words",
    [
        ("a", "b"),
        ("a", "b", "", "c", "", "d"),
        ("a", "a", "b", "c"),
        ("a", "a", "b", "b"),
        ("a", "a", "b", "b", "c", "c", "c"),
        ("a", "b", "ab", "ba", "cc"),
    ],
)
def test_everyone_gets_as_many_images_of_other_content_and_each_set_goes_once(
    words: tuple[str, ...], seed: int
) -> None:
    data = samples(*words)
    exchanges, why_none = draw_exchanges(data, 32, seed, content)
    assert why_none == "" and len(exchanges) == sum(bool(word) for word in words), "nobody is left out"
    for exchange in exchanges:
        own, given = letters(data[exchange.sample]), letters(data[exchange.donor])
        assert len(own) == len(given) and own != given
    assert sorted(exchange.donor for exchange in exchanges) == sorted(exchange.sample for exchange in exchanges)


def test_where_most_show_the_same_image_some_of_them_are_left_out() -> None:
    data = samples("a", "a", "a", "a", "b", "c", "xy")
    exchanges, _ = draw_exchanges(data, 32, 0, content)
    assert sorted(letters(data[exchange.sample]) for exchange in exchanges) == ["a", "a", "b", "c"]
    assert all(letters(data[e.sample]) != letters(data[e.donor]) for e in exchanges)


def test_the_seed_alone_decides_and_the_number_is_kept() -> None:
    data = samples(*"abcdefghij")
    first = draw_exchanges(data, 4, 1, content)
    assert first == draw_exchanges(data, 4, 1, content) != draw_exchanges(data, 4, 2, content)
    assert len(first[0]) == 4 and all(isinstance(exchange, Exchange) for exchange in first[0])


def test_data_without_images_or_with_one_say_so() -> None:
    assert draw_exchanges(samples("", ""), 32, 0, content) == ([], "the training data have no images")
    assert draw_exchanges(samples("a", "a", "bc"), 32, 0, content) == (
        [],
        "no two samples with equally many images differ in them",
    )
