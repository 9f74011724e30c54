"""Words of the miniature world, and the five tiers of vocabulary by which an answer's complexity is judged."""

from __future__ import annotations

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
VALUES = ("1", "2", "3", "4", "5", "6")
POLARITIES = ("yes", "no")

COLOUR_NOUNS = ("", "color", "shade", "hue", "chromaticity")
FORM_NOUNS = ("", "form", "outline", "contour", "morphology")
VALUE_NOUNS = ("", "height", "level", "magnitude", "ordinate")
SHOWING = ("there is", "the picture shows", "the image contains", "the composition features", "the raster comprises")
TALLER = ("is taller than", "is higher than", "exceeds", "surpasses", "dominates")
TALLEST = ("tallest", "highest", "largest", "maximum", "supremum")
SHORTEST = ("shortest", "lowest", "smallest", "minimum", "infimum")
"""One way to say it per tier of vocabulary, index 0 (plain) to 4 (expert)."""

_TIER_WORDS = (
    ("color", "form", "height", "shows", "higher", "highest", "lowest"),
    ("shade", "outline", "level", "contains", "exceeds", "largest", "smallest"),
    ("hue", "contour", "magnitude", "composition", "features", "surpasses", "maximum", "minimum"),
    ("chromaticity", "morphology", "ordinate", "raster", "comprises", "dominates", "supremum", "infimum"),
)
TIER_OF_WORD: dict[str, int] = {word: tier for tier, words in enumerate(_TIER_WORDS, start=1) for word in words}
"""Tier 1 (simple) to 4 (expert) of each word that shows knowledge; every other word is tier 0."""

OPENERS = {
    "easyvqa": ("in this image,", "looking at the image,", "from what i can see,"),
    "chart": ("in this chart,", "looking at the bars,", "from what i can see,"),
}

OPPOSITES = {
    "tall": "short",
    "big": "small",
    "hot": "cold",
    "fast": "slow",
    "old": "new",
    "up": "down",
    "left": "right",
    "open": "closed",
    "light": "dark",
    "full": "empty",
    "good": "bad",
    "hard": "soft",
    "wet": "dry",
    "high": "low",
    "early": "late",
    "near": "far",
}
"""What the text instructions ask for; held in both directions."""

THINGS = (
    *("cat", "dog", "house", "tree", "car", "book", "river", "bird", "stone", "cloud", "apple", "chair", "table"),
    *("road", "fish", "star", "door", "lamp", "hand", "boat", "king", "milk", "rain", "song", "coat", "ring"),
)
"""Plain nouns for the text instructions."""
