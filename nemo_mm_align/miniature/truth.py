"""The truth record of a miniature prompt: what the image shows, what was asked, and what a right answer says.

It travels in ``Prompt.metadata["truth"]``; only the oracle reads it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.records import Prompt, Record

NONE = "none"
"""Expected answer of a question about the attribute of an object that is not there."""

Split = Literal["base", "train", "dev", "heldout"]
Source = Literal["easyvqa", "chart", "text"]


class Bar(Record):
    """One bar of a chart, left to right; `value` from 1 to 6."""

    colour: str
    value: int


class Scene(Record):
    """What an image shows: one coloured shape (easy-VQA) or three to four bars (chart); neither for a text prompt."""

    source: Source
    colour: str = ""
    shape: str = ""
    bars: tuple[Bar, ...] = ()

    @property
    def values(self) -> dict[str, int]:
        """Bar heights by colour."""
        return {bar.colour: bar.value for bar in self.bars}


class Question(Record):
    """What is asked. `kind` and the meaning of `colour`, `shape`, `other`:

    ========== =========================================================== ====================
    kind       asks                                                        expected
    ========== =========================================================== ====================
    exist      is there a [colour] [shape] / a bar of `colour`             yes, no
    colour     colour of the `shape` (of the only shape if empty)          colour, ``none``
    shape      shape of the object of `colour` (of the only one if empty)  shape, ``none``
    value      height of the bar of `colour`                               "1".."6", ``none``
    taller     which of the bars `colour` and `other` is taller            colour
    compare    is the bar of `colour` taller than the bar of `other`       yes, no
    tallest    which bar is the tallest                                    colour
    shortest   which bar is the shortest                                   colour
    text       an instruction whose answer is known word by word           the words
    ========== =========================================================== ====================
    """

    kind: Literal["exist", "colour", "shape", "value", "taller", "compare", "tallest", "shortest", "text"]
    colour: str = ""
    shape: str = ""
    other: str = ""
    task: str = ""
    """Name of the text instruction (`repeat`, `reverse`, ...)."""


class Truth(Record):
    """Scene, question, expected answer; `absent` marks questions about an object that is not in the image."""

    scene: Scene
    question: Question
    expected: str
    absent: bool = False
    split: Split

    @property
    def is_yes_no(self) -> bool:
        """Whether the answer is yes or no."""
        return self.question.kind in ("exist", "compare")


def expected_answer(scene: Scene, question: Question) -> str:
    """Answer `question` from the facts of `scene` (image questions only)."""
    values = scene.values
    match question.kind:
        case "exist":
            return "yes" if is_there(scene, question.colour, question.shape) else "no"
        case "colour":
            return scene.colour if question.shape in ("", scene.shape) else NONE
        case "shape":
            return scene.shape if question.colour in ("", scene.colour) else NONE
        case "value":
            return str(values.get(question.colour, NONE))
        case "taller":
            return max((question.colour, question.other), key=lambda colour: values[colour])
        case "compare":
            return "yes" if values[question.colour] > values[question.other] else "no"
        case "tallest":
            return max(values, key=lambda colour: values[colour])
        case "shortest":
            return min(values, key=lambda colour: values[colour])
        case _:
            raise AssertionError(f"{question.kind} is not about an image")


def is_there(scene: Scene, colour: str, shape: str = "") -> bool:
    """Whether the scene shows a thing of that colour and shape; an empty string matches any."""
    if scene.source == "chart":
        return colour in scene.values
    return colour in ("", scene.colour) and shape in ("", scene.shape)


def make_truth(scene: Scene, question: Question, split: Split) -> Truth:
    """Truth of an image question, the expected answer and the absent flag derived from the scene."""
    expected = expected_answer(scene, question)
    absent = expected == NONE or (question.kind == "exist" and expected == "no")
    return Truth(scene=scene, question=question, expected=expected, absent=absent, split=split)


def truth_of(prompt: Prompt) -> Truth:
    """Read the truth that travels with a prompt.

    Raises:
        UserError: the prompt is not one of the miniature's.
    """
    record: Any = prompt.metadata.get("truth")
    try:
        return Truth.model_validate(record)
    except ValidationError:
        raise UserError(
            f"prompt {prompt.id!r} has no valid truth record under metadata.truth, so the oracle cannot judge it. "
            "The oracle judges the miniature's own prompts only; use another judge (judge=gemini) for other data."
        ) from None
