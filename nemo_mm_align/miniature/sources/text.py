"""Text-only instructions that a rule can check, to watch the language ability that visual tuning costs."""

from __future__ import annotations

import random

from nemo_mm_align.miniature.lexicon import COLOURS, OPPOSITES, SHAPES, THINGS, TIER_OF_WORD
from nemo_mm_align.miniature.truth import Question, Scene, Split, Truth

STEERING_WORDS = ("Attributes", "Helpfulness", "Correctness", "Coherence", "Complexity", "Verbosity")
"""Words that an attribute line uses: as words of the instructions they get trained embeddings, but no meaning."""

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "repeat": {
        "train": ("repeat: {x}", "say again: {x}", "write the same words: {x}", "repeat the same words: {x}"),
        "dev": ("write again: {x}",),
        "heldout": ("say the same words again: {x}",),
    },
    "reverse": {
        "train": ("reverse: {x}", "say in reverse order: {x}", "write the words from last to first: {x}"),
        "dev": ("write in reverse order: {x}",),
        "heldout": ("say the words in reverse order: {x}",),
    },
    "order": {
        "train": ("sort the numbers: {x}", "put in order: {x}", "write from smallest to largest: {x}"),
        "dev": ("put the numbers in order: {x}",),
        "heldout": ("sort from smallest to largest: {x}",),
    },
    "first": {
        "train": ("what is the first word of: {x}", "first word: {x}", "say the first word of: {x}"),
        "dev": ("write the first word of: {x}",),
        "heldout": ("say only the first word: {x}",),
    },
    "last": {
        "train": ("what is the last word of: {x}", "last word: {x}", "say only the last word of: {x}"),
        "dev": ("write the last word of: {x}",),
        "heldout": ("say the last word: {x}",),
    },
    "count": {
        "train": ("how many words are there: {x}", "count the words: {x}", "what is the number of words in: {x}"),
        "dev": ("what is the number of words: {x}",),
        "heldout": ("how many words: {x}",),
    },
    "opposite": {
        "train": ("what is the opposite of {x}?", "opposite: {x}", "say the opposite of: {x}"),
        "dev": ("write the opposite of {x}",),
        "heldout": ("what word is the opposite of {x}?",),
    },
    "larger": {
        "train": ("which number is larger, {x}?", "say the larger number: {x}", "write the larger of: {x}"),
        "dev": ("what is the larger number: {x}",),
        "heldout": ("which is the larger number, {x}?",),
    },
}
"""How each task is put into words: those of dev and heldout are used nowhere else."""

_NUMBERS = tuple("123456789")
_OPPOSITE = OPPOSITES | {right: left for left, right in OPPOSITES.items()}
_POOL = (*THINGS, *COLOURS, *SHAPES, *_NUMBERS, *STEERING_WORDS, *TIER_OF_WORD)


def _words(rng: random.Random, low: int, high: int) -> list[str]:
    return rng.sample(_POOL, rng.randint(low, high))


def _numbers(rng: random.Random, count: int) -> list[str]:
    return rng.sample(_NUMBERS, count)


def _material(rng: random.Random, task: str) -> str:
    """Draw what `task` is about."""
    match task:
        case "repeat" | "first" | "last":
            return " ".join(_words(rng, 2, 5))
        case "reverse":
            return " ".join(_words(rng, 2, 4))
        case "order":
            return " ".join(_numbers(rng, rng.randint(2, 4)))
        case "count":
            return " ".join(_words(rng, 1, 6))
        case "opposite":
            return rng.choice(list(_OPPOSITE))
        case "larger":
            return " or ".join(_numbers(rng, 2))
        case _:
            raise AssertionError(task)


def solve(task: str, material: str) -> str | None:
    """Return the words that are the right answer to a task; None where the task cannot be done with that material."""
    words = material.split()
    match task:
        case "repeat":
            return " ".join(words)
        case "reverse":
            return " ".join(reversed(words))
        case "order":
            return " ".join(sorted(words)) if set(words) <= set(_NUMBERS) else None
        case "first":
            return words[0]
        case "last":
            return words[-1]
        case "count":
            return str(len(words))
        case "opposite":
            return _OPPOSITE.get(material)
        case "larger":
            pair = material.split(" or ")
            return max(pair) if len(pair) == 2 and set(pair) <= set(_NUMBERS) else None
        case _:
            raise AssertionError(task)


def text_question(rng: random.Random, split: Split) -> tuple[str, Truth]:
    """Draw one instruction in a wording of `split`: (instruction, truth)."""
    task = rng.choice(sorted(WORDINGS))
    material = _material(rng, task)
    expected = solve(task, material)
    assert expected is not None
    wording = rng.choice(WORDINGS[task]["train" if split == "base" else split])
    question = Question(kind="text", task=task)
    return wording.format(x=material), Truth(
        scene=Scene(source="text"), question=question, expected=expected, split=split
    )
