"""Whether an answer says what it should: the same text, or text that contains it, once both are brought into one form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Form:
    """What does not count when texts are compared.

    Args:
        case: upper and lower case.
        whitespace: how much of it stands between words, and around them.
        punctuation: marks of punctuation (Unicode's), which go as if they were not there: ``don't`` is ``dont``, and a hyphen
            between letters leaves one word; but for points and commas between digits (``1.5``) and a minus before one.
        articles: the English words a, an, the.
    """

    case: bool = True
    whitespace: bool = True
    punctuation: bool = True
    articles: bool = False

    def of(self, text: str) -> str:
        """Return a text without what does not count; what looks alike (NFKC) is alike."""
        text = unicodedata.normalize("NFKC", text)
        if self.case:
            text = text.casefold()
        if self.punctuation:
            text = "".join(mark for place, mark in enumerate(text) if not _is_punctuation(text, place))
        if self.articles:
            text = ARTICLES.sub(" ", text)
        return " ".join(text.split()) if self.whitespace or self.articles else text


def is_exact(answer: str, accepted: Sequence[str], form: Form) -> bool:
    """Whether an answer is one of the accepted ones. An empty answer is none, whatever is accepted."""
    given = form.of(answer)
    return bool(given) and any(given == form.of(one) for one in accepted)


def contains(answer: str, accepted: Sequence[str], form: Form) -> bool:
    """Whether an answer contains one of the accepted ones as whole words: ``cat`` is not in ``concatenate``."""
    given = form.of(answer)
    return any(_has_words(given, form.of(one)) for one in accepted)


def _has_words(text: str, words: str) -> bool:
    return bool(words) and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def _is_punctuation(text: str, place: int) -> bool:
    mark = text[place]
    if not unicodedata.category(mark).startswith("P"):
        return False
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    within = mark in ".," and before.isdigit() and after.isdigit()
    return not within and not (mark == "-" and after.isdigit() and not before.strip())
