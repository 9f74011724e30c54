"""The language of answers: how a claim is said at each tier of vocabulary, and how it is read back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from nemo_mm_align.miniature.claims import ANY, Claim
from nemo_mm_align.miniature.lexicon import (
    COLOUR_NOUNS,
    COLOURS,
    FORM_NOUNS,
    OPENERS,
    POLARITIES,
    SHAPES,
    SHORTEST,
    SHOWING,
    TALLER,
    TALLEST,
    TIER_OF_WORD,
    VALUE_NOUNS,
    VALUES,
)
from nemo_mm_align.miniature.truth import NONE


def thing(colour: str, shape: str, chart: bool) -> str:
    """``red circle``, ``red shape``, ``circle`` or, in a chart, ``red bar``."""
    noun = "bar" if chart else shape or "shape"
    return f"{colour} {noun}".strip()


def say(claim: Claim, tier: int, *, short: bool, chart: bool) -> str:
    """Say `claim` with vocabulary of `tier` 0..4; `short` uses a pronoun where the asked thing is meant."""
    match claim.kind:
        case "answer":
            return f"so the answer is {claim.value}"
        case "exist":
            return f"{SHOWING[tier]} {'a' if claim.positive else 'no'} {thing(claim.colour, claim.shape, chart)}"
        case "colour":
            return _attribute(COLOUR_NOUNS[tier], thing("", claim.shape, chart), claim.colour, short)
        case "shape":
            owner = thing("" if claim.colour == ANY else claim.colour, "", chart)
            return _attribute(FORM_NOUNS[tier], owner, f"a {claim.shape}", short)
        case "value":
            return _attribute(VALUE_NOUNS[tier], thing(claim.colour, "", chart), claim.value, short)
        case "taller":
            return f"the {claim.colour} bar {TALLER[tier]} the {claim.other} bar"
        case "tallest" | "shortest":
            adjective = (TALLEST if claim.kind == "tallest" else SHORTEST)[tier]
            return f"the {claim.colour} bar is the {adjective}" if short else f"the {adjective} bar is {claim.colour}"


def _attribute(noun: str, owner: str, value: str, short: bool) -> str:
    if short:
        return f"its {noun} is {value}" if noun else f"it is {value}"
    return f"the {noun} of the {owner} is {value}" if noun else f"the {owner} is {value}"


def bare(value: str, kind: str, tier: int) -> str:
    """An answer of one or two words: ``red``, ``red hue``."""
    nouns = {"colour": COLOUR_NOUNS, "shape": FORM_NOUNS, "value": VALUE_NOUNS}.get(kind)
    return f"{value} {nouns[tier]}".strip() if nouns and value != NONE else value


@dataclass(frozen=True)
class Sentence:
    """One sentence as read: its words, and its claims (None where it could not be understood)."""

    words: tuple[str, ...]
    claims: tuple[Claim, ...] | None


def _any(options: tuple[str, ...]) -> str:
    return "|".join(re.escape(option) for option in sorted(options, key=len, reverse=True) if option)


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    colour, other, shape = f"(?P<colour>{_any(COLOURS)})", f"(?P<other>{_any(COLOURS)})", f"(?P<shape>{_any(SHAPES)})"
    any_thing = f"(?:{colour} )?(?:{shape}|shape|bar)"
    value = f"(?P<value>{_any(VALUES)})"
    words = f"(?P<value>{_any((*COLOURS, *SHAPES, *VALUES, *POLARITIES, NONE))})"
    one_shape = f"(?P<shape>{_any((*SHAPES, ANY))})"
    coloured_shape = f"(?:{colour} )?(?P<any>shape)"
    nouns = {name: _any(options) for name, options in (("c", COLOUR_NOUNS), ("f", FORM_NOUNS), ("v", VALUE_NOUNS))}
    table = (
        ("exist", f"(?:{_any(SHOWING)}) (?:a|(?P<no>no)) {any_thing}"),
        ("colour", f"its (?:{nouns['c']}) is {colour}"),
        ("colour", f"(?:the (?:{nouns['c']}) of )?the {one_shape} is {colour}"),
        ("shape", f"its (?:{nouns['f']}) is a {shape}"),
        ("shape", f"(?:the (?:{nouns['f']}) of )?the {coloured_shape} is a {shape}"),
        ("value", f"its (?:{nouns['v']}) is {value}"),
        ("value", f"(?:the (?:{nouns['v']}) of )?the {colour} bar is {value}"),
        ("taller", f"the {colour} bar (?:{_any(TALLER)}) the {other} bar"),
        ("tallest", f"the {colour} bar is the (?:{_any(TALLEST)})"),
        ("tallest", f"the (?:{_any(TALLEST)}) bar is {colour}"),
        ("shortest", f"the {colour} bar is the (?:{_any(SHORTEST)})"),
        ("shortest", f"the (?:{_any(SHORTEST)}) bar is {colour}"),
        ("answer", f"(?:so the answer is |it is (?:a )?)?{words}"),
        ("answer", f"{words} (?:{nouns['c']}|{nouns['f']}|{nouns['v']})"),
    )
    return tuple((kind, re.compile(pattern)) for kind, pattern in table)


_OPENING = re.compile("^(?:" + _any(tuple(text.rstrip(",") for texts in OPENERS.values() for text in texts)) + ") ")
_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


def words_of(text: str) -> list[str]:
    """Lower-case words of an answer, punctuation left out: the unit in which verbosity is counted."""
    return [word for word in _WORD.findall(text.lower()) if word.isalnum()]


VERBOSITY_LIMITS = (2, 7, 13, 22)
"""Most words of an answer of verbosity 0, 1, 2 and 3; longer ones are 4."""


def verbosity_level(text: str) -> int:
    """Verbosity 0 (up to 2 words) to 4 (more than 22) by number of words."""
    return sum(len(words_of(text)) > limit for limit in VERBOSITY_LIMITS)


def complexity_level(text: str) -> int:
    """Complexity 0 (plain) to 4 (expert): the highest tier that at least half of the sentences reach.

    A sentence reaches the tier of its most advanced word; one rare word does not make a long answer expert.
    """
    parts = [words_of(part) for part in text.split(".")]
    tiers = sorted((max(TIER_OF_WORD.get(word, 0) for word in words) for words in parts if words), reverse=True)
    return tiers[(len(tiers) - 1) // 2] if tiers else 0


def read_clause(clause: str) -> Claim | None:
    """Read one clause, or None where it is not a sentence of this language."""
    for kind, pattern in _patterns():
        if match := pattern.fullmatch(clause):
            found = {name: text for name, text in match.groupdict().items() if text is not None}
            positive = found.pop("no", None) is None
            if found.pop("any", None) and "colour" not in found:
                found["colour"] = ANY
            return Claim(kind=kind, positive=positive, **found)  # type: ignore[arg-type]
    return None


def _read_sentence(sentence: str) -> Sentence:
    words = words_of(sentence)
    claims: list[Claim] = []
    rest = list(words)
    if rest[0] in POLARITIES:
        claims.append(Claim("answer", value=rest.pop(0)))
    clause = _OPENING.sub("", " ".join(rest), count=1) if rest else ""
    if clause:
        claim = read_clause(clause)
        if claim is None:
            return Sentence(tuple(words), None)
        claims.append(claim)
    return Sentence(tuple(words), tuple(claims))


def read_answer(text: str) -> list[Sentence]:
    """Split an answer into sentences and read the claims of each."""
    return [_read_sentence(part) for part in text.lower().split(".") if words_of(part)]
