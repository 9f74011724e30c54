"""The truth of a question that nobody wrote down: read off the picture and the words, for pictures and wordings of this world.

What somebody asks in a playground comes without a truth record. A chart is read off its pixels and drawn again, an image of
easy-VQA is known by its pixels, and a question is one of the wordings of the world, of any split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.miniature.lexicon import COLOURS, SHAPES
from nemo_mm_align.miniature.sources import charts, easyvqa, text
from nemo_mm_align.miniature.truth import Question, Scene, Truth, make_truth

_COLOUR = "|".join(COLOURS)
_SHAPE = "|".join((*SHAPES, "shape"))
_Wordings = Mapping[str, Mapping[str, Sequence[str]]]


def read_truth(question: str, image: Image.Image | None) -> Truth:
    """Return the truth of a question about a picture, or of a text instruction without one.

    Raises:
        UserError: a picture or a wording that is not the miniature's.
    """
    words = " ".join(question.split())
    if image is None:
        return _instruction(words)
    scene = charts.read_chart(image) or easyvqa.read_shape(image)
    if scene is None:
        raise UserError(
            "the oracle knows the miniature's pictures alone, to the pixel: those of easy-VQA and charts as it draws them. "
            "Take one from a world/images folder, or ask an attribute model for scores."
        )
    asked = next(_questions(words, scene), None)
    if asked is None:
        raise UserError(f"the oracle does not understand {question[:100]!r}: ask as the miniature's prompts do.")
    return make_truth(scene, asked, "heldout")


def _questions(words: str, scene: Scene) -> Iterator[Question]:
    """What the words may ask about such a picture."""
    for kind, match in _matches(words, scene.source):
        found = {name: (value or "").lower() for name, value in match.groupdict().items()}
        colour, shape, other = (found.get(name, "") for name in ("colour", "shape", "other"))
        question = Question(
            kind=kind,  # type: ignore[arg-type]
            colour=colour,
            shape=shape.removesuffix("shape"),
            other=other,
        )
        if _can_be_answered(question, scene):
            yield question


def _can_be_answered(question: Question, scene: Scene) -> bool:
    match question.kind:
        case "colour":
            return not question.colour
        case "shape":
            return not question.shape
        case "taller" | "compare":
            return {question.colour, question.other} <= scene.values.keys() and question.colour != question.other
        case _:
            return True


def _instruction(words: str) -> Truth:
    for task, match in _matches(words, "text"):
        expected = text.solve(task, match["material"])
        if expected is not None:
            asked = Question(kind="text", task=task)
            return Truth(scene=Scene(source="text"), question=asked, expected=expected, split="heldout")
    raise UserError(f"the oracle does not understand {words[:100]!r}: ask as the miniature's prompts do.")


def _matches(words: str, source: str) -> Iterator[tuple[str, re.Match[str]]]:
    for kind, pattern in _patterns()[source]:
        if match := pattern.fullmatch(words):
            yield kind, match


@cache
def _patterns() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Of each source: kinds of questions, and their wordings as patterns."""
    thing = rf"(?:(?P<colour>{_COLOUR}) )?(?P<shape>{_SHAPE})"
    return {
        "easyvqa": list(_compiled(easyvqa.WORDINGS, thing, "")),
        "chart": list(_compiled(charts.WORDINGS, f"(?P<colour>{_COLOUR})", f"(?P<other>{_COLOUR})")),
        "text": list(_compiled(text.WORDINGS, "(?P<material>.+)", "")),
    }


def _compiled(wordings: _Wordings, x: str, y: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    for kind, by_split in wordings.items():
        for wording in (one for split in by_split.values() for one in split):
            pattern = re.escape(wording).replace(r"\{x\}", x).replace(r"\{y\}", y)
            yield kind, re.compile(pattern, re.IGNORECASE)
