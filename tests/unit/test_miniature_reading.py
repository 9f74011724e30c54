"""What the oracle reads off a picture and a question that bring no truth record, against the records of the world."""

from __future__ import annotations

import random
import re

import pytest
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.miniature.reading import read_truth
from nemo_mm_align.miniature.sources import charts, easyvqa, text
from nemo_mm_align.miniature.truth import Bar, Scene, Split, Truth

SPLITS: tuple[Split, ...] = ("train", "dev", "heldout")
SCENE = Scene(
    source="chart", bars=(Bar(colour="red", value=2), Bar(colour="teal", value=6), Bar(colour="black", value=1))
)


def plain(truth: Truth) -> Truth:
    return truth.model_copy(update={"split": "heldout"})


@pytest.mark.parametrize("split", SPLITS)
def test_every_kind_of_question_is_read_as_it_was_asked(split: Split) -> None:
    rng = random.Random(1)
    shapes = easyvqa.load_scenes("test")
    for _ in range(60):
        scene = charts.draw_scene(rng)
        question, truth = charts.chart_question(rng, scene, split, 0.5)
        assert read_truth(question, charts.draw_chart(scene)) == plain(truth), question
        path, scene = rng.choice(shapes)
        question, truth = easyvqa.shape_question(rng, scene, split, 0.5)
        assert read_truth(question, Image.open(path)) == plain(truth), question
        question, truth = text.text_question(rng, split)
        assert read_truth(question, None) == plain(truth), question


def test_case_and_blanks_make_no_difference() -> None:
    truth = read_truth("  How tall is the TEAL bar? ", charts.draw_chart(SCENE))
    assert (truth.expected, truth.question.colour, truth.scene) == ("6", "teal", SCENE)


def test_a_chart_is_known_to_the_pixel() -> None:
    image = charts.draw_chart(SCENE)
    assert charts.read_chart(image) == SCENE
    image.putpixel((63, 0), (1, 2, 3))
    assert charts.read_chart(image) is None and charts.read_chart(Image.new("RGB", (64, 64))) is None


@pytest.mark.parametrize(
    ("question", "image", "says"),
    [
        ("what is the value of the red bar?", Image.new("RGB", (30, 40)), "the oracle knows the miniature's pictures alone"),
        ("why?", charts.draw_chart(SCENE), "does not understand 'why?'"),
        ("is the red bar taller than the blue bar?", charts.draw_chart(SCENE), "does not understand"),
        ("opposite: blue", None, "does not understand 'opposite: blue'"),
    ],
)  # fmt: skip
def test_what_is_not_the_miniatures_is_refused(question: str, image: Image.Image | None, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        read_truth(question, image)
