"""Which answers share a row: neighbours with the same images and the same prompt, as long as the row fits."""

from pathlib import Path

from nemo_mm_align.datasets.grouping import group_answers
from nemo_mm_align.datasets.rows import row_lengths
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.prompts import EncodedSequence

IMAGE = 9


def sample(name: str, prompt: list[int], answer: list[int], *images: str) -> Sample:
    mask = [False] * len(prompt) + [True] * len(answer)
    return Sample(name, [Path(image) for image in images], [EncodedSequence(prompt + answer, mask)])


def ids(samples: list[Sample], max_length: int = 100) -> list[list[list[int]]]:
    return [[sequence.ids for sequence in group.sequences] for group in group_answers(samples, IMAGE, max_length)]


def test_answers_to_one_prompt_are_joined_and_others_are_not() -> None:
    question, other = [1, IMAGE, IMAGE, 5, 6], [1, IMAGE, IMAGE, 7, 8, 7, 8, 7, 8]
    given = [
        sample("a", question, [20], "x.png"),
        sample("b", [*question, 11], [21, 22], "x.png"),  # a line behind the question
        sample("c", question, [23], "y.png"),  # another image
        sample("d", other, [24], "y.png"),  # another question about the same image, which is most of the prompt
        sample("e", [1, 5, 6], [25]),
        sample("f", [1, 5, 6], [26]),
        sample("g", [2, 5, 6], [27]),
    ]
    found = group_answers(given, IMAGE, 100)
    assert [(group.id, len(group.sequences)) for group in found] == [("a", 2), ("c", 2), ("e", 2), ("g", 1)]
    assert found[0].roles == ("answer", "answer") and found[0].image_paths == [Path("x.png")]
    assert [sequence.ids for sequence in found[0].sequences] == [given[0].sequences[0].ids, given[1].sequences[0].ids]


def test_images_never_stand_in_a_branch() -> None:
    """The question comes first and differs: the image lies behind it in both."""
    given = [sample("a", [1, 2, 3, 4, IMAGE, 5], [20], "x.png"), sample("b", [1, 2, 3, 8, IMAGE, 5], [21], "x.png")]
    assert [len(group) for group in ids(given)] == [1, 1]


def test_a_row_stays_within_the_longest_length() -> None:
    prompt = [1, 2, 3, 4, 5, 6]
    given = [sample(str(number), prompt, [20 + number] * 3) for number in range(5)]
    groups = group_answers(given, IMAGE, 14)
    assert [len(group.sequences) for group in groups] == [3, 2]
    assert [row_lengths(group, True) for group in groups] == [[14], [11]], "5 in common, then 3 a branch"
    assert [len(group.sequences) for group in group_answers(given, IMAGE, 13)] == [2, 2, 1]
