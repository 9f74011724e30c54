"""Which records are kept: filters, duplicates, and a share drawn by id and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nemo_mm_align.datasets.ablations import in_order
from nemo_mm_align.datasets.prepare.products import Made
from nemo_mm_align.datasets.prepare.settings import PrepareSettings


class Selection:
    """Says why a record is left out, and remembers what was there already."""

    def __init__(self, settings: PrepareSettings) -> None:
        self.settings, self._seen, self._ids = settings, set[bytes](), set[str]()

    def refusal(self, made: Made) -> str | None:
        """Return why a record is not wanted; None for one that is kept."""
        settings = self.settings
        if settings.has_image is not None and settings.has_image != bool(made.images):
            return "without an image" if settings.has_image else "with an image"
        if settings.tasks is not None and made.task not in settings.tasks:
            return "another task"
        if settings.origins is not None and made.origin not in settings.origins:
            return "another origin"
        return self._length(made.answers) or self._again(made.key)

    def _length(self, answers: Sequence[str]) -> str | None:
        least, most = self.settings.min_answer_words, self.settings.max_answer_words
        if least is None and most is None:
            return None
        if not answers:
            return "no answer whose words could be counted"
        words = [len(answer.split()) for answer in answers]
        if least is not None and min(words) < least:
            return f"answer below {least:,} words"
        return f"answer above {most:,} words" if most is not None and max(words) > most else None

    def _again(self, key: str) -> str | None:
        mark = bytes.fromhex(key)
        if self.settings.dedupe and mark in self._seen:
            return "the same as an earlier one"
        self._seen.add(mark)
        return None

    def distinct(self, name: str) -> str:
        """Return an id, with a number behind it where it was there already."""
        given, number = name, 1
        while name in self._ids:
            number += 1
            name = f"{given}-{number}"
        self._ids.add(name)
        return name


def drawn(ids: list[str], settings: PrepareSettings) -> set[str]:
    """Return the ids that `share`, `count` and `seed` choose: the first of an order that holds for each id by itself."""
    number = math.floor(settings.share * len(ids) + 0.5)
    wanted = number if settings.count is None else min(number, settings.count)
    return set(ids if wanted >= len(ids) else in_order(ids, f"{settings.seed}:prepare")[:wanted])
