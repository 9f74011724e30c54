"""Which option of a multiple-choice question an answer chooses; "" where the rule finds none, and nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

Rule = Literal["vlmevalkit", "llava"]
Options = Mapping[str, str]
"""Texts of the options by their letters, in order."""

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_BREAKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def vlmevalkit_option(text: str, options: Options) -> str:
    """Return the one letter that stands as a word of its own; else the one option whose text occurs, in any case.

    A lone Z and four phrases of refusal choose nothing. Source: can_infer of github.com/open-compass/VLMEvalKit,
    vlmeval/utils/matching_util.py, commit 18fc37a, which decides what its exact matching counts as right.
    """
    if any(refusal in text for refusal in REFUSALS):
        return ""
    words = set(text.translate(_BREAKS).split())
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1:
        return letters[0]
    if not letters and "Z" in words:
        return ""
    found = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return found[0] if len(found) == 1 else ""


def llava_option(text: str, options: Options) -> str:
    """Return a letter that is the whole answer; else one of ``The answer is B.``; else the one option that contains the answer.

    Source: auto_parse_answer of github.com/haotian-liu/LLaVA, llava/eval/eval_mmbench.py, commit ce1aa08; blanks alone, which
    LLaVA strips before it writes an answer, choose nothing.
    """
    whole = text.strip(".").strip().upper()
    if whole in options:
        return whole
    lower = text.lower()
    for letter in options:
        if f"the answer is {letter}.".lower() in lower:
            return letter
    found = [letter for letter, option in options.items() if lower in option.lower()]
    return found[0] if text.strip() and len(found) == 1 else ""


def scienceqa_letter(text: str) -> str:
    """Return the letter A to E of an answer that is one, begins with one (``B. ``), or says ``The answer is B``.

    Source: github.com/haotian-liu/LLaVA, llava/eval/eval_science_qa.py, commit 5200b75.
    """
    text = text.replace("\n", ". ")
    if text.strip() in tuple("ABCDE"):
        return text.strip()
    if text[:1] in tuple("ABCDE") and text[1:3] == ". ":
        return text[0]
    found = re.search(r"The answer is ([A-E])\.", text) or re.search(r"The answer is ([A-E])", text)
    return found[1] if found else ""


RULES: Mapping[Rule, Callable[[str, Options], str]] = {"vlmevalkit": vlmevalkit_option, "llava": llava_option}
