"""Which answers share a row: neighbours of one prompt with the same images, as long as the row fits."""

from dataclasses import replace
from pathlib import Path

from nemo_mm_align.datasets.grouping import group_answers
from nemo_mm_align.datasets.rows import row_lengths
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.schema.crops import Crop
from nemo_mm_align.schema.prompts import EncodedSequence

IMAGE = 9


def sample(name: str, prompt: list[int], answer: list[int], *images: str) -> Sample:
    mask = [False] * len(prompt) + [True] * len(answer)
    return Sample(name, [Path(image) for image in images], [EncodedSequence(prompt + answer, mask)])


def test_answers_to_one_prompt_are_joined_and_others_are_not() -> None:
    question = [1, IMAGE, IMAGE, 5, 6]
    given = [
        sample("p#0", question, [20], "x.png"),
        sample("p#1", [*question, 11], [21, 22], "x.png"),  # a line behind the question
        sample("q#0", question, [23], "x.png"),  # another prompt about the same image
        sample("q#1", question, [24], "y.png"),  # another image
        sample("t#0", [1, 5, 6], [25]),
        sample("t#1-unasked", [1, 5, 6], [26]),
        sample("u", [1, 5, 6], [27]),  # an id that tells of no prompt
        sample("u", [1, 5, 6], [28]),
    ]
    found = group_answers(given, IMAGE, 100)
    assert [(group.id, len(group.sequences)) for group in found] == [
        ("p#0", 2), ("q#0", 1), ("q#1", 1), ("t#0", 2), ("u", 1), ("u", 1),
    ]  # fmt: skip
    assert found[0].roles == ("answer", "answer") and found[0].image_paths == [Path("x.png")]
    assert [sequence.ids for sequence in found[0].sequences] == [given[0].sequences[0].ids, given[1].sequences[0].ids]


def test_images_never_stand_in_a_branch() -> None:
    """The question comes first and differs: the image lies behind it in both."""
    given = [sample("p#0", [1, 2, 3, 4, IMAGE, 5], [20], "x.png"), sample("p#1", [1, 2, 3, 8, IMAGE, 5], [21], "x.png")]
    assert [len(group.sequences) for group in group_answers(given, IMAGE, 100)] == [1, 1]


def test_what_has_more_than_sequences_stays_as_it_is() -> None:
    """Targets, parts of images and prior sequences belong to their samples."""
    pair = [sample(f"p#{number}", [1, IMAGE, 5, 6], [20 + number], "x.png") for number in range(2)]
    for more in (
        {"targets": [[1.0]]},
        {"views": ((Crop(0.1, 0.2, 1),),)},
        {"prior_sequences": pair[0].sequences},
    ):
        given = [replace(one, **more) for one in pair]
        assert list(group_answers(given, IMAGE, 100)) == given


def test_a_row_stays_within_the_longest_length() -> None:
    prompt = [1, 2, 3, 4, 5, 6]
    given = [sample(f"p#{number}", prompt, [20 + number] * 3) for number in range(5)]
    groups = group_answers(given, IMAGE, 14)
    assert [len(group.sequences) for group in groups] == [3, 2]
    assert [row_lengths(group, True) for group in groups] == [[14], [11]], "5 in common, then 3 a branch"
    assert [len(group.sequences) for group in group_answers(given, IMAGE, 13)] == [2, 2, 1]
