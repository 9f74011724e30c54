"""Images of records that are to be written: where they lie, and which are missing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.image_store import is_data_url, store_data_url
from nemo_mm_align.datasets.prepare.settings import PrepareSettings
from nemo_mm_align.datasets.prepare.spool import Entry, Spool, images_of
from nemo_mm_align.datasets.relocate import path_below
from nemo_mm_align.schema.image_paths import resolve_image

SHOWN = 3


class Images:
    """Finds the images of a data file's records.

    Args:
        settings: image_root and image_cache.
        data: file that relative paths lie beside where there is no image_root.
    """

    def __init__(self, settings: PrepareSettings, data: str) -> None:
        self.root, self.cache = settings.image_root, settings.cache
        self.base = Path(data) if Path(data).is_file() else Path("records")
        self.folder = Path(os.path.abspath(settings.out)).parent

    def resolve(self, path: str) -> Path:
        """Return how the written file names an image; raise `UserError` for a path that is none."""
        if is_data_url(path):
            return store_data_url(path, self.cache)
        place = Path(os.path.abspath(resolve_image(path, self.base, self.root)))
        return Path(path_below(self.folder, place))


def missing_images(paths: tuple[str, ...], out: Path) -> list[str]:
    """Return those of a written record's image paths at which no file lies."""
    return [path for path in paths if not (out.parent / path).is_file()]


def check_images(spool: Spool, kept: set[str], settings: PrepareSettings) -> None:
    """Raise `UserError` where images of the records that are to be written are missing."""
    found: list[str] = []
    total = 0
    for entry, line in _with_images(spool, kept):
        images = images_of(json.loads(line))
        total += len(images)
        found += [f"{path} (id {entry.id})" for path in missing_images(tuple(images), settings.out)]
    if found:
        root = settings.image_root or "the folder of the data file"
        raise UserError(
            f"{len(found):,} of {total:,} images are missing, for example {'; '.join(found[:SHOWN])}. They are looked for in "
            f"{root}: set image_root to the folder that the records' paths begin in, or images=drop to leave such records "
            "out, or images=unchecked. Nothing was written."
        )


def _with_images(spool: Spool, kept: set[str]) -> Iterator[tuple[Entry, str]]:
    return spool.lines(lambda entry: entry.id in kept and entry.images > 0)
