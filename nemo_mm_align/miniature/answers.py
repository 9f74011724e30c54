"""Answers from a grammar, to pre-train the miniature's base with. They never enter alignment data.

They differ in correctness, verbosity (0..4) and complexity (0..4) independently, so that the base, when sampled, gives
answers of every kind and preference has something to find.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from nemo_mm_align.miniature.claims import ANY, Claim
from nemo_mm_align.miniature.clauses import bare, say, verbosity_level
from nemo_mm_align.miniature.lexicon import COLOURS, OPENERS, POLARITIES, SHAPES
from nemo_mm_align.miniature.truth import NONE, Bar, Question, Scene, Truth, expected_answer, is_there

Fault = Literal["right", "wrong", "invented", "incoherent"]

_TRIES = 200
"""Drafts of an answer until one has the length asked for."""


def main_claim(question: Question, expected: str) -> Claim:
    """The statement that answers `question` with `expected`."""
    absent = Claim("exist", question.colour, question.shape, positive=False)
    if expected == NONE:
        return absent
    match question.kind:
        case "exist":
            return Claim("exist", question.colour, question.shape) if expected == "yes" else absent
        case "colour":
            return Claim("colour", expected, question.shape)
        case "shape":
            return Claim("shape", question.colour, expected)
        case "value":
            return Claim("value", question.colour, value=expected)
        case "taller":
            return Claim("taller", expected, other=question.other if expected == question.colour else question.colour)
        case "compare":
            pair = (question.colour, question.other) if expected == "yes" else (question.other, question.colour)
            return Claim("taller", pair[0], other=pair[1])
        case "tallest" | "shortest":
            return Claim(question.kind, expected)
        case _:
            raise AssertionError(f"{question.kind} has no claim")


def mistaken_scene(rng: random.Random, scene: Scene, question: Question) -> Scene:
    """A scene near the real one in which `question` has another answer."""
    expected = expected_answer(scene, question)
    while True:
        guess = _altered_chart(rng, scene, question) if scene.bars else _altered_shape(rng, scene, question)
        if expected_answer(guess, question) not in (expected, NONE):
            return guess


def _altered_shape(rng: random.Random, scene: Scene, question: Question) -> Scene:
    if question.kind == "exist" and not is_there(scene, question.colour, question.shape):
        return scene.model_copy(
            update={"colour": question.colour or scene.colour, "shape": question.shape or scene.shape}
        )
    shape = rng.choice(SHAPES) if question.kind != "colour" else question.shape or scene.shape
    colour = rng.choice(COLOURS) if question.kind != "shape" else question.colour or scene.colour
    return scene.model_copy(update={"colour": colour, "shape": shape})


def _altered_chart(rng: random.Random, scene: Scene, question: Question) -> Scene:
    bars = list(scene.bars)
    if question.colour and question.colour not in scene.values:
        index = rng.randrange(len(bars))
        bars[index] = Bar(colour=question.colour, value=bars[index].value)
    elif question.kind == "exist":
        index = [bar.colour for bar in bars].index(question.colour)
        bars[index] = Bar(colour=_absent_colour(rng, scene), value=bars[index].value)
    elif question.kind == "value":
        index = [bar.colour for bar in bars].index(question.colour)
        unused = sorted(set(range(1, 7)) - set(scene.values.values()))
        bars[index] = Bar(colour=question.colour, value=rng.choice(unused))
    else:
        left, right = rng.sample(range(len(bars)), 2)
        bars[left], bars[right] = (
            Bar(colour=bars[left].colour, value=bars[right].value),
            Bar(colour=bars[right].colour, value=bars[left].value),
        )
    return scene.model_copy(update={"bars": tuple(bars)})


def _absent_colour(rng: random.Random, scene: Scene, asked: str = "") -> str:
    return rng.choice([colour for colour in COLOURS if colour != asked and not is_there(scene, colour)])


def side_claims(rng: random.Random, scene: Scene, question: Question, *, false: bool = False) -> list[Claim]:
    """Further statements about a scene in random order: all true of it, or (`false`) things that are not there."""
    colour = _absent_colour(rng, scene, question.colour)
    if false:
        pool = [Claim("exist", colour, rng.choice(SHAPES)) if scene.shape else Claim("exist", colour)]
    elif scene.shape:
        pool = [
            Claim("exist", scene.colour, scene.shape),
            Claim("colour", scene.colour, ANY),
            Claim("shape", ANY, scene.shape),
            Claim("exist", colour, positive=False),
        ]
    else:
        first, second = sorted(rng.sample(scene.bars, 2), key=lambda bar: -bar.value)
        pool = [Claim("value", bar.colour, value=str(bar.value)) for bar in rng.sample(scene.bars, 2)]
        pool += [
            Claim("tallest", max(scene.bars, key=lambda bar: bar.value).colour),
            Claim("shortest", min(scene.bars, key=lambda bar: bar.value).colour),
            Claim("taller", first.colour, other=second.colour),
            Claim("exist", colour, positive=False),
        ]
    expected = expected_answer(scene, question)
    if not false:
        pool.append(Claim("answer", value=expected))
    rng.shuffle(pool)
    said = say(main_claim(question, expected), 0, short=False, chart=bool(scene.bars))
    return [claim for claim in pool if say(claim, 0, short=False, chart=bool(scene.bars)) != said]


def _main_sentence(rng: random.Random, scene: Scene, question: Question, verbosity: int, tier: int) -> str:
    expected = expected_answer(scene, question)
    if verbosity == 0:
        return bare(expected, question.kind, tier)
    chart = scene.source == "chart"
    short = verbosity == 1 or rng.random() < 0.3
    sentence = say(main_claim(question, expected), tier, short=short, chart=chart)
    if verbosity >= 2 and rng.random() < 0.7:
        sentence = f"{rng.choice(OPENERS[scene.source])} {sentence}"
    if expected in POLARITIES and rng.random() < 0.9:
        sentence = f"{expected}, {sentence}"
    return sentence


def _compose(rng: random.Random, scene: Scene, question: Question, verbosity: int, tier: int, invented: bool) -> str:
    sentences = [_main_sentence(rng, scene, question, verbosity, tier)]
    if verbosity == 0:
        return sentences[0]
    extras = side_claims(rng, scene, question)[: {3: 1, 4: rng.randint(2, 3)}.get(verbosity, 0)]
    if invented:
        extras = [*side_claims(rng, scene, question, false=True), *extras[1:]]
    chart = scene.source == "chart"
    for claim in sorted(extras, key=lambda claim: claim.kind == "answer"):
        sentences.append(say(claim, tier, short=False, chart=chart))
    return ". ".join(sentences) + "."


def can_be_written(truth: Truth, verbosity: int, complexity: int) -> bool:
    """Whether the grammar has a right answer of this style.

    A bare yes, none or colour of a bar has no word to show knowledge with, and "the red bar is taller than the blue
    bar" (tiers 0 and 1) is too long for verbosity 1.
    """
    kind = truth.question.kind
    if verbosity == 0:
        return complexity == 0 or (kind in ("colour", "shape", "value") and truth.expected != NONE)
    return verbosity > 1 or kind not in ("taller", "compare") or complexity >= 2


def _fit(tries: int, verbosity: int, compose: Callable[[], str]) -> str:
    for _ in range(tries):
        text = compose()
        if verbosity_level(text) == verbosity:
            break
    return text


def write_answer(rng: random.Random, truth: Truth, verbosity: int, complexity: int, fault: Fault = "right") -> str:
    """Write an answer of the given style (0..4 each) with or without a fault; an invented thing needs verbosity 3.

    Where `can_be_written` says no, it is of the nearest style: of complexity 0, or longer.
    """
    scene, question = truth.scene, truth.question
    if fault == "wrong":
        scene = mistaken_scene(rng, scene, question)
    invented = fault == "invented"
    verbosity = max(verbosity, 3) if invented else verbosity
    tries = _TRIES if can_be_written(truth, verbosity, complexity) else 1
    text = _fit(tries, verbosity, lambda: _compose(rng, scene, question, verbosity, complexity, invented))
    return _garble(rng, truth, text, complexity) if fault == "incoherent" else text


def _garble(rng: random.Random, truth: Truth, text: str, tier: int) -> str:
    """Contradict, scramble, stutter or cut an answer."""
    other = mistaken_scene(rng, truth.scene, truth.question)
    words = text.rstrip(".").split(" ")
    kind = rng.choice(("contradict", "scramble", "stutter", "cut"))
    if kind == "contradict" or len(words) < 3:
        return f"{text.rstrip('.')}. {_main_sentence(rng, other, truth.question, 1, tier)}."
    if kind == "scramble":
        rng.shuffle(words)
        return " ".join(words) + "."
    if kind == "stutter":
        index = rng.randrange(len(words))
        return " ".join([*words[:index], words[index], *words[index:]]) + "."
    return " ".join(words[: rng.randint(1, len(words) - 1)])
