"""Prompts whose keys and values are kept, to be gone on from where another prompt begins in the same way.

A conversation is asked again with one more turn, and a picture with another question: most of such a prompt has been
computed before. What is kept lies in slots of the cache behind those of the answers; the least recently used one goes first.
Every rank of a replica keeps the same, since all are told the same.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy

from nemo_mm_align.inference.rows import DecodingRequest

LEAST = 16
"""Positions below which going on saves nothing worth a pass of its own."""
LEAST_SHARE = 0.25
"""Of a prompt, likewise."""


@dataclass(frozen=True)
class Prefix:
    """The first `length` positions of `slot`, which a prompt begins with."""

    slot: int
    length: int


@dataclass(frozen=True, eq=False)
class Content:
    """What the positions of a prompt hold, as numbers, which compare a thousand times faster than a list does.

    Args:
        codes_S: token ids, and below zero which picture a position belongs to.
        pictures: names, in order.
        tokens_per_image: positions of each.
    """

    codes_S: numpy.ndarray
    pictures: tuple[str, ...]
    tokens_per_image: int

    def __len__(self) -> int:
        return len(self.codes_S)

    def followed_by(self, ids: Sequence[int]) -> Content:
        """Return the same with more tokens behind it."""
        codes_S = numpy.concatenate([self.codes_S, numpy.asarray(ids, dtype=numpy.int64)])
        return Content(codes_S, self.pictures, self.tokens_per_image)

    def common(self, other: Content) -> int:
        """Return how many positions both begin with alike, by their numbers."""
        length = min(len(self), len(other))
        differs_S = self.codes_S[:length] != other.codes_S[:length]
        first = int(differs_S.argmax()) if length else 0
        return first if length and differs_S[first] else length

    def whole_pictures(self, length: int) -> int:
        """Return `length`, less what a picture would be cut by there."""
        return length - self._picture_positions(length) % self.tokens_per_image

    def has_pictures_of(self, other: Content, length: int) -> bool:
        """Whether both have the same names among their first positions: two of them might have one number."""
        count = -(-self._picture_positions(length) // self.tokens_per_image)
        return self.pictures[:count] == other.pictures[:count]

    def _picture_positions(self, length: int) -> int:
        return int(numpy.count_nonzero(self.codes_S[:length] < 0))


def content_of(request: DecodingRequest, image_token_id: int, tokens_per_image: int) -> Content:
    """Return what a prompt's positions hold, up to the first picture that nothing is known of."""
    codes_S = numpy.array(request.prompt.ids, dtype=numpy.int64)
    (places_I,) = numpy.nonzero(codes_S == image_token_id)
    names = request.pictures[: len(places_I) // tokens_per_image]
    known = len(names) * tokens_per_image
    if known < len(places_I):
        codes_S = codes_S[: places_I[known]]
    codes_S[places_I[:known]] = numpy.repeat(
        numpy.array([_code(name) for name in names], numpy.int64), tokens_per_image
    )
    return Content(codes_S, names, tokens_per_image)


def _code(picture: str) -> int:
    """A number below zero, the same on every rank."""
    return -1 - (int.from_bytes(hashlib.blake2b(picture.encode(), digest_size=8).digest(), "little") >> 1)


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
        found = self._find(content, positions)
        if found is not None:
            self._kept.move_to_end(found.slot)
            self.found += found.length
        return found

    def known(self, content: Content, positions: int) -> int:
        """Return how many positions of a prompt `longest` would find, which this does not count."""
        found = self._find(content, positions)
        return 0 if found is None else found.length

    def _find(self, content: Content, positions: int) -> Prefix | None:
        best, slot = max(((content.common(kept), slot) for slot, kept in self._kept.items()), default=(0, 0))
        length = content.whole_pictures(min(best, positions - 1))
        if not is_worth_it(length, positions) or not content.has_pictures_of(self._kept[slot], length):
            return None
        return Prefix(slot, length)

    def keep(self, content: Content) -> int | None:
        """Return the slot into which what was computed has to be copied; None where there is nothing to be done."""
        if not self or len(content) < LEAST:
            return None
        begun = None  # by what is kept: its slot can be written over
        for slot, kept in self._kept.items():
            common = content.common(kept)
            if common in (len(content), len(kept)) and content.has_pictures_of(kept, common):
                if common == len(content):
                    return None
                begun = slot if begun is None else begun
        if begun is None:
            begun = self._free.pop(0) if self._free else next(iter(self._kept))
        self._kept[begun] = content
        self._kept.move_to_end(begun)
        return begun

    def forget(self, slot: int) -> None:
        """Take back that a slot holds what `keep` was told of."""
        del self._kept[slot]
        self._free.append(slot)


def is_worth_it(length: int, positions: int) -> bool:
    """Whether so many positions that need not be computed are worth a pass of their own."""
    return length >= max(LEAST, LEAST_SHARE * positions)


def repeated(contents: Sequence[Content], positions: Sequence[int], known: Sequence[int]) -> Iterator[int]:
    """Yield which of several prompts begin so like an earlier one that they had better wait for it.

    Args:
        contents: of the prompts.
        positions: of each.
        known: how many of these are kept already: what is alike beyond them is what waiting saves.
    """
    first: list[Content] = []
    for place, content in enumerate(contents):
        alike = max((content.common(other) for other in first), default=0)
        saved = content.whole_pictures(min(alike, positions[place] - 1)) - known[place]
        if is_worth_it(saved, positions[place]):
            yield place
        else:
            first.append(content)
