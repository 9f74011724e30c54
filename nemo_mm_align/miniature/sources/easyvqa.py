"""easy-VQA (Victor Zhou, MIT): 64x64 images of one coloured shape; questions about colour, shape and existence.

The facts of an image are read off the package's own question and answer pairs. Its train and test images are kept
apart: held-out prompts use test images only.
"""

from __future__ import annotations

import functools
import hashlib
import random
from pathlib import Path
from typing import Literal

import easy_vqa
from PIL import Image

from nemo_mm_align.miniature.lexicon import COLOURS, POLARITIES, SHAPES
from nemo_mm_align.miniature.truth import Question, Scene, Split, Truth, is_there, make_truth

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "exist": {
        "train": (
            "is there a {x}?",
            "is there a {x} in this image?",
            "does the image contain a {x}?",
            "does the picture show a {x}?",
            "is a {x} present?",
            "is a {x} visible in the image?",
            "can you see a {x} in the picture?",
        ),
        "dev": ("does the image show a {x}?", "can you see a {x}?"),
        "heldout": (
            "is there a {x} in the image?",
            "is a {x} present in the image?",
            "does the picture contain a {x}?",
        ),
    },
    "colour": {
        "train": (
            "what color is the {x}?",
            "what is the color of the {x}?",
            "tell me the color of the {x}.",
            "which color does the {x} have?",
            "what color is the {x} in the image?",
        ),
        "dev": ("what color does the {x} have?",),
        "heldout": ("which color is the {x}?", "what is the color of the {x} in the image?"),
    },
    "shape": {
        "train": (
            "what is the {x}?",
            "which form does the {x} have?",
            "tell me the form of the {x}.",
            "what kind of shape is the {x}?",
            "what form is the {x} in the image?",
        ),
        "dev": ("what form does the {x} have?",),
        "heldout": ("what is the form of the {x}?", "tell me what kind of shape the {x} is."),
    },
}
"""How each question is put into words: those of dev and heldout are used nowhere else."""


def _facts(questions: tuple[list[str], list[str], list[int]]) -> dict[int, Scene]:
    """Colour and shape of each image for which the package's answers settle both."""
    colours: dict[int, str] = {}
    shapes: dict[int, str] = {}
    for text, answer, image in zip(*questions, strict=True):
        negated = " not " in text or " no " in text
        named = answer if answer not in POLARITIES else text if (answer == "yes") != negated else ""
        if answer not in POLARITIES:
            named += " " + text  # "what is the blue shape?" presupposes that there is one
        for word in named.rstrip("?").split():
            if word in COLOURS:
                colours[image] = word
            elif word in SHAPES:
                shapes[image] = word
    known = sorted(colours.keys() & shapes.keys())
    return {image: Scene(source="easyvqa", colour=colours[image], shape=shapes[image]) for image in known}


def load_scenes(part: str) -> list[tuple[Path, Scene]]:
    """Image path and facts of the package's ``train`` or ``test`` images, in order of image id."""
    train = part == "train"
    questions = easy_vqa.get_train_questions() if train else easy_vqa.get_test_questions()
    paths = easy_vqa.get_train_image_paths() if train else easy_vqa.get_test_image_paths()
    return [(Path(paths[image]), scene) for image, scene in _facts(questions).items()]


def read_shape(image: Image.Image) -> Scene | None:
    """Return the facts of one of the package's images, known by its pixels; None for any other picture."""
    return _scenes().get(_pixels(image))


@functools.cache
def _scenes() -> dict[bytes, Scene]:
    found = {}
    for path, scene in (*load_scenes("train"), *load_scenes("test")):
        with Image.open(path) as image:
            found[_pixels(image)] = scene
    return found


def _pixels(image: Image.Image) -> bytes:
    return hashlib.sha256(repr(image.size).encode() + image.convert("RGB").tobytes()).digest()


def shape_question(rng: random.Random, scene: Scene, split: Split, absent_share: float) -> tuple[str, Truth]:
    """Draw one question about `scene` in a wording of `split`; `absent_share` of them ask for what is not there."""
    kinds: tuple[Literal["exist", "colour", "shape"], ...] = ("exist", "colour", "shape")
    kind = rng.choices(kinds, weights=(4, 3, 3))[0]
    want_absent = rng.random() < absent_share
    while True:
        colour, shape = _draw_object(rng, kind)
        if is_there(scene, colour, shape) != want_absent:
            break
    question = Question(kind=kind, colour=colour, shape=shape)
    wording = rng.choice(WORDINGS[kind]["train" if split == "base" else split])
    return wording.format(x=f"{colour} {shape or 'shape'}".strip()), make_truth(scene, question, split)


def _draw_object(rng: random.Random, kind: str) -> tuple[str, str]:
    """What is asked about: a colour, a shape, or both; never nothing at all where existence is asked."""
    colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
    if kind == "colour":
        return "", rng.choice((shape, shape, ""))
    if kind == "shape":
        return rng.choice((colour, "")), ""
    return rng.choice(((colour, ""), ("", shape), (colour, shape)))
