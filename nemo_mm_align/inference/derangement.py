"""Every prompt with another prompt's pictures: do the ratings change where the pictures do?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from nemo_mm_align.core.errors import UserError

Hashes = tuple[str, ...]


def derange(pictures: Sequence[Hashes], seed: int) -> list[int]:
    """Return for each prompt the prompt whose pictures it is shown: as many, and never the same ones.

    Within each number of pictures, prompts are drawn into a random order in which those about the same pictures stand together;
    each takes the pictures of the one so many places further on as the most frequent pictures occur. A prompt without pictures
    keeps having none.

    Args:
        pictures: hashes of each prompt's pictures.
        seed: of the drawing.

    Raises:
        UserError: no prompt has pictures, or one stays with its own whatever is drawn.
    """
    shown = list(range(len(pictures)))
    for count in sorted({len(hashes) for hashes in pictures} - {0}):
        places = [place for place, hashes in enumerate(pictures) if len(hashes) == count]
        times = Counter(pictures[place] for place in places)
        most = max(times.values())
        if 2 * most > len(places):
            raise UserError(
                f"shuffle_images: of {len(places)} prompts with {count} pictures each, {most} have the same ones, so that not "
                "each can be shown another's. Leave some of them out, or add prompts about other pictures."
            )
        generator = random.Random(f"{seed} {count}")
        order = {hashes: generator.random() for hashes in sorted(times)}
        places.sort(key=lambda place: (order[pictures[place]], pictures[place]))
        shown_places = places[most:] + places[:most]
        for place, other in zip(places, shown_places, strict=True):
            shown[place] = other
    if shown == list(range(len(pictures))):
        raise UserError("shuffle_images: no prompt has a picture.")
    return shown
