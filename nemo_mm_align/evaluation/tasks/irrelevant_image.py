"""Images that have nothing to do with a question: do they disturb a model that needs none?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def images_for(source: str | None, ids: Sequence[str]) -> dict[str, Path]:
    """Return an image for each question, absolute; nothing where there is no source.

    Args:
        source: an image file, shown with every question, or a folder of them, taken in turn by their names.

    Raises:
        UserError: neither, or a folder without an image.
    """
    if source is None:
        return {}
    path = Path(source).absolute()
    found = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not found or not all(one.is_file() for one in found):
        raise UserError(f"{source}: no image and no folder with one ({', '.join(SUFFIXES)}). Correct task.image.")
    return {key: found[place % len(found)] for place, key in enumerate(ids)}
