"""Questions in words: a rating in brackets, a number at the start, two numbers in the first line, one of two letters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def true_rating(text: str, most: int = 10) -> int:
    """What this judge thinks of a question's last text: 1 to `most`, from a hash of it."""
    return hashlib.sha256(text.encode()).digest()[0] % most + 1


def reply_in_words(texts: Sequence[str], instructions: str) -> str | None:
    """Return the reply to a question that says how it wants it, None where it does not."""
    asked = "\n".join((instructions, *texts))
    if not texts:
        return None
    if "[[rating]]" in asked:
        return f"The answer says what it says.\n\nRating: [[{true_rating(texts[-1])}]]"
    if asked.rstrip().endswith("|") and "| Correctness" in asked:
        return f"{true_rating(texts[-1]) / 10:.1f}"
    if "two scores are separated by a space" in asked:
        return f"{true_rating(texts[-1][::-1])} {true_rating(texts[-1])}\nBoth say what they say."
    return None


def letter_probabilities(texts: Sequence[str]) -> dict[str, float]:
    """How likely this judge prefers the first of two answers (m) to the second (M), from a hash of what it is shown."""
    first = true_rating("\n".join(texts), most=99) / 100
    return {"m": first, "M": 1 - first}
