"""What an answer says, as typed claims, and how a claim compares with the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nemo_mm_align.miniature.lexicon import COLOURS, POLARITIES, SHAPES, VALUES
from nemo_mm_align.miniature.truth import NONE, Question, Truth, is_there

ANY = "shape"
"""Names the one thing in the image whatever it is ("the shape is red"); an empty field names the thing asked about."""

ClaimKind = Literal["answer", "exist", "colour", "shape", "value", "taller", "tallest", "shortest"]


@dataclass(frozen=True)
class Claim:
    """One statement. `answer` names its `value` without saying of what ("yes", "it is red"); for the other kinds:

    exist: a thing of `colour` and `shape` is there, or not (`positive`); colour, shape: the thing that the other field
    names has it (`ANY`: the only thing); value: the bar of `colour` is `value` high; taller: the bar of `colour` is
    taller than that of `other`; tallest, shortest: the bar of `colour` is. An empty field stands for the thing that was
    asked about.
    """

    kind: ClaimKind
    colour: str = ""
    shape: str = ""
    other: str = ""
    value: str = ""
    positive: bool = True


def allowed_answers(question: Question) -> tuple[str, ...]:
    """Words that answer `question` by themselves."""
    match question.kind:
        case "exist" | "compare":
            return POLARITIES
        case "shape":
            return (*SHAPES, NONE)
        case "value":
            return (*VALUES, NONE)
        case "colour":
            return (*COLOURS, NONE)
        case _:
            return COLOURS


def direct_answer(claim: Claim, question: Question) -> str | None:
    """The answer to `question` that `claim` gives by itself, or None where it speaks of something else."""
    if claim.kind == "answer":
        return claim.value if claim.value in allowed_answers(question) else None
    if question.kind == "exist":
        return _existence(claim, question)
    if claim.kind == "exist":
        return _from_existence(claim, question)
    if claim.kind != ("taller" if question.kind == "compare" else question.kind):
        return None
    match claim.kind:
        case "colour":
            return claim.colour if _means(claim.shape, question.shape) else None
        case "shape":
            return claim.shape if _means(claim.colour, question.colour) else None
        case "value":
            return claim.value if claim.colour in ("", question.colour) else None
        case "taller":
            return _from_comparison(claim, question)
        case _:
            return claim.colour


def _means(named: str, asked: str) -> bool:
    """Whether what a claim names is the thing asked about."""
    return not asked or named in ("", asked)


def _resolve(named: str, asked: str) -> str:
    """What a claim names: the thing asked about where it uses a pronoun, anything where it says `ANY`."""
    return "" if named == ANY else named or asked


def _existence(claim: Claim, question: Question) -> str | None:
    if claim.kind != "exist":
        return None
    if claim.positive:
        matches = question.colour in ("", claim.colour) and question.shape in ("", claim.shape)
        return "yes" if matches else None
    covers = claim.colour in ("", question.colour) and claim.shape in ("", question.shape)
    return "no" if covers else None


def _from_existence(claim: Claim, question: Question) -> str | None:
    """``There is no triangle`` answers the question for its colour; so does ``there is a red triangle``."""
    if not claim.positive:
        asked = question.shape if question.kind == "colour" else question.colour
        named = claim.shape if question.kind == "colour" else claim.colour
        other = claim.colour if question.kind == "colour" else claim.shape
        return (
            NONE if question.kind in ("colour", "shape", "value") and asked and named == asked and not other else None
        )
    if question.kind == "colour" and claim.colour:
        return claim.colour if question.shape in ("", claim.shape) else None
    if question.kind == "shape" and claim.shape:
        return claim.shape if question.colour in ("", claim.colour) else None
    return None


def _from_comparison(claim: Claim, question: Question) -> str | None:
    if {claim.colour, claim.other} != {question.colour, question.other}:
        return None
    if question.kind == "taller":
        return claim.colour
    return "yes" if claim.colour == question.colour else "no"


def holds(claim: Claim, truth: Truth) -> bool:
    """Whether the claim is true of the scene; an empty field is read as the thing that was asked about."""
    scene, question = truth.scene, truth.question
    values = scene.values
    match claim.kind:
        case "answer":
            return _answer_holds(claim.value, truth)
        case "exist":
            return is_there(scene, claim.colour, claim.shape) == claim.positive
        case "colour":
            return is_there(scene, claim.colour, _resolve(claim.shape, question.shape))
        case "shape":
            return is_there(scene, _resolve(claim.colour, question.colour), claim.shape)
        case "value":
            return str(values.get(claim.colour or question.colour, NONE)) == claim.value
        case "taller":
            return values.get(claim.colour, 0) > values.get(claim.other, 9)
        case "tallest":
            return bool(values) and values.get(claim.colour) == max(values.values())
        case "shortest":
            return bool(values) and values.get(claim.colour) == min(values.values())


def _answer_holds(value: str, truth: Truth) -> bool:
    if value in allowed_answers(truth.question):
        return value == truth.expected
    scene = truth.scene
    return scene.source == "easyvqa" and value in (scene.colour, scene.shape)


def invents(claim: Claim, truth: Truth) -> bool:
    """Whether the claim speaks of a thing as there that is not in the image."""
    scene, question = truth.scene, truth.question
    match claim.kind:
        case "answer":
            return truth.absent and direct_answer(claim, question) not in (None, "no", NONE)
        case "exist":
            return claim.positive and not is_there(scene, claim.colour, claim.shape)
        case "colour":
            return not is_there(scene, "", _resolve(claim.shape, question.shape))
        case "shape":
            return not is_there(scene, _resolve(claim.colour, question.colour))
        case "value" | "tallest" | "shortest":
            return not is_there(scene, _resolve(claim.colour, question.colour))
        case "taller":
            return not (is_there(scene, claim.colour) and is_there(scene, claim.other))


def topic(claim: Claim, question: Question) -> tuple[tuple[str, ...], str]:
    """What the claim speaks of and what it says of it: two values for one topic contradict each other."""
    match claim.kind:
        case "answer":
            return ("answer",), claim.value
        case "exist":
            return ("exist", claim.colour, claim.shape), str(claim.positive)
        case "colour":
            return ("colour", _resolve(claim.shape, question.shape)), claim.colour
        case "shape":
            return ("shape", _resolve(claim.colour, question.colour)), claim.shape
        case "value":
            return ("value", claim.colour or question.colour), claim.value
        case "taller":
            return ("taller", *sorted((claim.colour, claim.other))), claim.colour
        case "tallest" | "shortest":
            return (claim.kind,), claim.colour


def contradict(claims: list[Claim], question: Question) -> bool:
    """Whether two of the claims cannot both be true."""
    said: dict[tuple[str, ...], str] = {}
    answers = {answer for claim in claims if (answer := direct_answer(claim, question)) is not None}
    for claim in claims:
        about, said_of_it = topic(claim, question)
        if said.setdefault(about, said_of_it) != said_of_it:
            return True
    return len(answers) > 1
