"""A share of the training data kept out of the training: whole groups of records that have a prompt or a picture in common.

What is drawn follows from the records' ids and pictures alone: neither seed nor order of the file changes it, so that runs
that are compared with each other are validated on the same records.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.examples import Example

logger = logging.getLogger(__name__)

LEAST_OF_TARGET = 0.5
"""Share of what was asked for below which groups are too coarse to draw from."""

Ties = Callable[[Example], list[str]]
"""What ties a record to others: those that have one of these in common are never parted."""


def hold_out(examples: Sequence[Example], share: float, path: str) -> tuple[list[Example], list[Example]]:
    """Return the examples that are trained on and those that are not, both in the order of the file.

    Records of one picture, and rows of one prompt (ids ``PROMPT#...``), stay together; where such groups are too large to
    draw the share from, pictures are let go, then prompts, with a warning.

    Args:
        share: of the examples to hold out; at least one is.
        path: of the data, for messages.

    Raises:
        UserError: nothing would be left to train on.
    """
    target = max(1, round(share * len(examples)))
    if target >= len(examples):
        raise UserError(
            f"{path}: data.validation={share:g} of {len(examples)} records leaves nothing to train on. Give a smaller share, or "
            "a file of its own."
        )
    for ties, apart in ((_prompt_and_pictures, ""), (_prompt, "pictures"), (_record, "pictures and prompts")):
        drawn = _draw(_groups(examples, ties), target)
        if len(drawn) >= max(1, target * LEAST_OF_TARGET):
            if apart:
                logger.warning(
                    "%s: too many records share one picture or prompt to hold out data.validation=%g of them in whole groups: "
                    "some %s are on both sides, and validation looks better than it is",
                    path,
                    share,
                    apart,
                )
            break
    return (
        [example for place, example in enumerate(examples) if place not in drawn],
        [example for place, example in enumerate(examples) if place in drawn],
    )


def _prompt_and_pictures(example: Example) -> list[str]:
    return [*_prompt(example), *(f"picture {path}" for path in example.images)]


def _prompt(example: Example) -> list[str]:
    return [f"prompt {example.id.partition('#')[0]}"]


def _record(example: Example) -> list[str]:
    return [f"record {example.id}"]


def _groups(examples: Iterable[Example], ties: Ties) -> list[tuple[str, list[int]]]:
    """Return the places of the records of each group, with what tells it from the others."""
    parents: dict[str, str] = {}

    def root(tie: str) -> str:
        parents.setdefault(tie, tie)
        while parents[tie] != tie:
            parents[tie] = parents[parents[tie]]
            tie = parents[tie]
        return tie

    first_ties = []
    for example in examples:
        first, *others = ties(example)
        for other in others:
            parents[root(other)] = root(first)
        first_ties.append(first)
    members: dict[str, list[int]] = {}
    for place, tie in enumerate(first_ties):
        members.setdefault(root(tie), []).append(place)
    return [(min(first_ties[place] for place in places), places) for places in members.values()]


def _draw(groups: Iterable[tuple[str, list[int]]], target: int) -> set[int]:
    """Return the places of whole groups, by the hashes of their names, that are together at most `target`."""
    drawn: set[int] = set()
    for _, places in sorted((hashlib.sha256(name.encode()).hexdigest(), places) for name, places in groups):
        if len(drawn) + len(places) <= target:
            drawn.update(places)
    return drawn
