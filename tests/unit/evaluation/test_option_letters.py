import pytest

from nemo_mm_align.evaluation.tasks.option_letters import llava_option, scienceqa_letter, vlmevalkit_option

OPTIONS = {"A": "red", "B": "dark blue", "C": "blue sky"}


@pytest.mark.parametrize(
    ("text", "vlmevalkit", "llava"),
    [
        ("B", "B", "B"),
        ("B.", "B", "B"),
        ("(B) dark blue", "B", ""),
        ("The answer is C.", "C", "C"),
        ("the answer is c.", "", "C"),
        ("It is red", "A", ""),
        ("red", "A", "A"),
        ("sky", "", "C"),
        ("blue", "", ""),  # part of two
        ("A or B", "", ""),
        ("A red one", "A", ""),
        ("D", "", ""),  # no such option
        ("Z", "", ""),
        ("", "", ""),
        ("   ", "", ""),
        ("I'm sorry, but without the image provided, B", "", ""),
    ],
)
def test_options_are_chosen_by_the_published_rules(text, vlmevalkit, llava):
    assert vlmevalkit_option(text, OPTIONS) == vlmevalkit
    assert llava_option(text, OPTIONS) == llava


def test_llava_strips_full_stops_before_blanks():
    assert [llava_option(text, OPTIONS) for text in ("b.", ".b", "b .", " b. ")] == ["B", "B", "B", ""]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" C ", "C"),
        ("B. because", "B"),
        ("B\nbecause", "B"),  # a line's end counts as a full stop
        ("B.", ""),  # two characters: neither a letter alone nor one with more behind
        ("B.x", ""),
        ("a", ""),
        ("So. The answer is D.", "D"),
        ("The answer is D", "D"),
        ("The answer is DOG", "D"),
        ("The answer is A, no: The answer is B.", "B"),  # with a full stop comes first
        ("the answer is B", ""),
        ("F", ""),
        ("", ""),
    ],
)
def test_letters_are_read_as_llava_reads_scienceqas(text, letter):
    assert scienceqa_letter(text) == letter
