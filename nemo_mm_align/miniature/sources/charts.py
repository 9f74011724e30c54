"""Bar charts drawn with Pillow: 64x64 images of 3 or 4 coloured bars, values 1 to 6, with axis, grid and digits."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from nemo_mm_align.miniature.lexicon import COLOURS
from nemo_mm_align.miniature.truth import Bar, Question, Scene, Split, Truth, make_truth

SIZE = 64
_SCALE = 4
SLOT = 16
"""Pixels from bar to bar: each bar lies in one column of 16x16 patches."""

_LEFT, _BASE, _UNIT, _WIDTH = 5, 61, 9.5, 9
"""Pixels: axis, base line, one unit of value, width of bars."""

RGB = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}
"""easy-VQA's colours."""

_DIGITS = {
    1: ("010", "110", "010", "010", "111"),
    2: ("111", "001", "111", "100", "111"),
    3: ("111", "001", "111", "001", "111"),
    4: ("101", "101", "111", "001", "001"),
    5: ("111", "100", "111", "001", "111"),
    6: ("111", "100", "111", "101", "111"),
}
"""3x5 pixel digits: no font file is needed and they stay legible at this size."""

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "exist": {
        "train": (
            "is there a {x} bar?",
            "is there a {x} bar in this chart?",
            "does the chart contain a {x} bar?",
            "does this chart show a {x} bar?",
            "is a {x} bar present?",
            "is a {x} bar visible in the chart?",
            "can you see a {x} bar in the chart?",
        ),
        "dev": ("does the chart show a {x} bar?", "is a {x} bar visible?"),
        "heldout": (
            "is there a {x} bar in the chart?",
            "is a {x} bar present in the chart?",
            "does this chart contain a {x} bar?",
        ),
    },
    "value": {
        "train": (
            "what is the value of the {x} bar?",
            "how tall is the {x} bar?",
            "which value does the {x} bar have?",
            "tell me the value of the {x} bar.",
            "how tall is the {x} bar in the chart?",
        ),
        "dev": ("what value does the {x} bar have?",),
        "heldout": ("tell me how tall the {x} bar is.", "what is the value of the {x} bar in the chart?"),
    },
    "taller": {
        "train": (
            "which bar is taller, the {x} bar or the {y} bar?",
            "which is taller, the {x} bar or the {y} bar?",
            "tell me which is taller, {x} or {y}.",
            "which bar is taller, {x} or {y}?",
        ),
        "dev": ("tell me which bar is taller, {x} or {y}.",),
        "heldout": ("which is taller, {x} or {y}?", "tell me which is taller, the {x} bar or the {y} bar."),
    },
    "compare": {
        "train": (
            "is the {x} bar taller than the {y} bar?",
            "is the value of the {x} bar larger than the value of the {y} bar?",
            "does the {x} bar have a larger value than the {y} bar?",
            "in the chart, is the {x} bar taller than the {y} bar?",
        ),
        "dev": ("in the chart, does the {x} bar have a larger value than the {y} bar?",),
        "heldout": (
            "in this chart, is the {x} bar taller than the {y} bar?",
            "in this chart, does the {x} bar have a larger value than the {y} bar?",
        ),
    },
    "tallest": {
        "train": (
            "which bar is the tallest?",
            "what color is the tallest bar?",
            "tell me the tallest bar.",
            "what color does the tallest bar have?",
        ),
        "dev": ("which color is the tallest bar?",),
        "heldout": ("tell me the color of the tallest bar.", "in the chart, which bar is the tallest?"),
    },
    "shortest": {
        "train": (
            "which bar is the shortest?",
            "what color is the shortest bar?",
            "tell me the shortest bar.",
            "what color does the shortest bar have?",
        ),
        "dev": ("which color is the shortest bar?",),
        "heldout": ("tell me the color of the shortest bar.", "in the chart, which bar is the shortest?"),
    },
}
"""How each question is put into words: those of dev and heldout are used nowhere else."""


def draw_scene(rng: random.Random) -> Scene:
    """Draw a chart's facts: 3 or 4 bars, all colours and all values different."""
    count = rng.choice((3, 4))
    colours, values = rng.sample(COLOURS, count), rng.sample(range(1, 7), count)
    pairs = zip(colours, values, strict=True)
    return Scene(source="chart", bars=tuple(Bar(colour=colour, value=value) for colour, value in pairs))


def draw_chart(scene: Scene) -> Image.Image:
    """Draw the chart, 64x64 RGB."""
    big = SIZE * _SCALE
    image = Image.new("RGB", (big, big), (250, 250, 250))
    draw = ImageDraw.Draw(image)
    for value in range(1, 7):
        y = round((_BASE - value * _UNIT) * _SCALE)
        draw.line([(_LEFT * _SCALE, y), (big, y)], fill=(215, 215, 215), width=2)
    for index, bar in enumerate(scene.bars):
        left = _LEFT + 1.5 + index * SLOT
        top = _BASE - bar.value * _UNIT
        box = [left * _SCALE, top * _SCALE, (left + _WIDTH) * _SCALE, _BASE * _SCALE]
        draw.rectangle(box, fill=RGB[bar.colour])
    draw.line(
        [(_LEFT * _SCALE, 0), (_LEFT * _SCALE, _BASE * _SCALE), (big, _BASE * _SCALE)], fill=(60, 60, 60), width=3
    )
    image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    _draw_digits(image)
    return image


def read_chart(image: Image.Image) -> Scene | None:
    """Return the facts of a chart as `draw_chart` draws it, to the pixel; None for any other picture."""
    if image.size != (SIZE, SIZE):
        return None
    plain = image.convert("RGB")
    bars = [bar for slot in range(SIZE // SLOT) if (bar := _read_bar(plain, slot)) is not None]
    scene = Scene(source="chart", bars=tuple(bars))
    return scene if bars and draw_chart(scene).tobytes() == plain.tobytes() else None


def _read_bar(image: Image.Image, slot: int) -> Bar | None:
    column = [image.getpixel((round(_LEFT + slot * SLOT + _WIDTH / 2 + 1.5), y)) for y in range(_BASE - 1)]
    colour = next((name for name, rgb in RGB.items() if rgb == column[-1]), None)
    if colour is None:
        return None
    return Bar(colour=colour, value=round((_BASE - column.index(column[-1])) / _UNIT))


def _draw_digits(image: Image.Image) -> None:
    for value, rows in _DIGITS.items():
        top = max(0, round(_BASE - value * _UNIT) - 2)
        for y, row in enumerate(rows):
            for x, pixel in enumerate(row):
                if pixel == "1":
                    image.putpixel((1 + x, top + y), (40, 40, 40))


def chart_question(rng: random.Random, scene: Scene, split: Split, absent_share: float) -> tuple[str, Truth]:
    """Draw one question about `scene` in a wording of `split`.

    Of the questions about one bar (existence, value) `absent_share` ask for a bar that is not there.
    """
    kinds, weights = ("exist", "value", "taller", "compare", "tallest", "shortest"), (3, 3, 2, 2, 1, 1)
    kind = rng.choices(kinds, weights=weights)[0]
    present = rng.sample([bar.colour for bar in scene.bars], 2)
    colour, other = present
    if kind in ("exist", "value") and rng.random() < absent_share:
        colour = rng.choice([colour for colour in COLOURS if colour not in scene.values])
    question = Question(
        kind=kind,  # type: ignore[arg-type]
        colour="" if kind in ("tallest", "shortest") else colour,
        other=other if kind in ("taller", "compare") else "",
    )
    wording = rng.choice(WORDINGS[kind]["train" if split == "base" else split])
    return wording.format(x=colour, y=other), make_truth(scene, question, split)
