"""What a text answers to a yes/no question, by the rules of POPE, of LLaVA, and by whole words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

Rule = Literal["pope", "llava", "words"]

NO_WORDS = frozenset({"No", "not", "no"})
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def first_sentence(text: str) -> str:
    """Return ``no`` where the text before the first full stop has a word of `NO_WORDS`, else ``yes``.

    Words are what stands between spaces once commas are gone, as they are written: ``NO``, ``no!`` and ``No\\n`` are none of
    them, and an empty answer is a yes. POPE's and LLaVA's scripts read a text by the very same lines
    (github.com/AoiDragon/POPE, evaluate.py, commit f3ec604; github.com/haotian-liu/LLaVA, llava/eval/eval_pope.py, commit
    4241f08).
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "yes" if NO_WORDS.isdisjoint(words) else "no"


def whole_words(text: str) -> str:
    """Return ``yes`` or ``no``, whichever of them is a word of the text in any case; "" where neither or both are."""
    found = {word.lower() for word in _WORD.findall(text)} & {"yes", "no"}
    return found.pop() if len(found) == 1 else ""


RULES: Mapping[Rule, Callable[[str], str]] = {"pope": first_sentence, "llava": first_sentence, "words": whole_words}
