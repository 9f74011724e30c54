"""Prompts whose keys and values are kept, to be gone on from where another prompt begins in the same way.

A conversation is asked again with one more turn, and a picture with another question: most of such a prompt has been
computed before. What is kept lies in slots of the cache behind those of the answers; the least recently used one goes first.
Every rank of a replica keeps the same, since all are told the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from nemo_mm_align.inference.rows import DecodingRequest

Content = tuple[int | str, ...]
"""What positions hold: a token's id, or which picture a position belongs to."""

LEAST = 16
"""Positions below which going on saves nothing worth a pass of its own."""
LEAST_SHARE = 0.25
"""Of a prompt, likewise."""


@dataclass(frozen=True)
class Prefix:
    """The first `length` positions of `slot`, which a prompt begins with."""

    slot: int
    length: int


def content_of(request: DecodingRequest, image_token_id: int, tokens_per_image: int) -> Content:
    """Return what a prompt's positions hold, up to the first picture that nothing is known of."""
    pictures = iter(request.pictures)
    found: list[int | str] = []
    ids = request.prompt.ids
    while len(found) < len(ids):
        token = ids[len(found)]
        if token != image_token_id:
            found.append(token)
            continue
        picture = next(pictures, None)
        if picture is None:
            break
        found += [picture] * tokens_per_image
    return tuple(found)


class Prefixes:
    """What is kept, by slot.

    Args:
        slots: of the cache, to keep prompts in.

    Attributes:
        asked, found: positions of all prompts so far, and how many of these were kept.
    """

    def __init__(self, slots: Iterable[int]) -> None:
        self._free = list(slots)
        self._kept: OrderedDict[int, Content] = OrderedDict()
        self.asked = self.found = 0

    def __bool__(self) -> bool:
        """Whether anything can be kept."""
        return bool(self._free or self._kept)

    def longest(self, content: Content, positions: int) -> Prefix | None:
        """Return what is kept of a prompt; None where that is too little to go on from.

        Args:
            content: of the prompt.
            positions: of it; its last one is computed in any case.
        """
        self.asked += positions
        best = max(((common(content, kept), slot) for slot, kept in self._kept.items()), default=(0, 0))
        length = whole_pictures(content, min(best[0], positions - 1))
        if not is_worth_it(length, positions):
            return None
        self._kept.move_to_end(best[1])
        self.found += length
        return Prefix(best[1], length)

    def keep(self, content: Content) -> int | None:
        """Return the slot into which what was computed has to be copied; None where there is nothing to be done."""
        if not self or len(content) < LEAST:
            return None
        if any(kept[: len(content)] == content for kept in self._kept.values()):
            return None
        slot = self._to_be_replaced(content)
        self._kept[slot] = content
        self._kept.move_to_end(slot)
        return slot

    def _to_be_replaced(self, content: Content) -> int:
        """The beginning of the same, an unused slot, or the one that nothing was asked of for longest."""
        for slot, kept in self._kept.items():
            if content[: len(kept)] == kept:
                return slot
        return self._free.pop(0) if self._free else next(iter(self._kept))


def common(one: Sequence[int | str], other: Sequence[int | str]) -> int:
    """Return how many positions two contents begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def whole_pictures(content: Content, length: int) -> int:
    """Return `length`, less what a picture would be cut by there."""
    if length < len(content) and length and isinstance(content[length], str) and content[length] == content[length - 1]:
        picture = content[length]
        while length and content[length - 1] == picture:
            length -= 1
    return length


def is_worth_it(length: int, positions: int) -> bool:
    """Whether so many positions that need not be computed are worth a pass of their own."""
    return length >= max(LEAST, LEAST_SHARE * positions)


def repeated(contents: Sequence[Content], positions: Sequence[int]) -> Iterator[int]:
    """Yield which of several prompts begin so like an earlier one that they had better wait for it."""
    first: list[Content] = []
    for place, content in enumerate(contents):
        alike = max((common(content, other) for other in first), default=0)
        if is_worth_it(whole_pictures(content, min(alike, positions[place] - 1)), positions[place]):
            yield place
        else:
            first.append(content)
