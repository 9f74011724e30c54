"""Image paths of records that move to a file in another folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from nemo_mm_align.schema.image_paths import resolve_image


class RecordWithImages(Protocol):
    """A record that names images: a prompt or an example."""

    @property
    def images(self) -> tuple[str, ...]:
        """Paths."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Pydantic's."""


WithImages = TypeVar("WithImages", bound=RecordWithImages)


def relocate_images(records: Iterable[WithImages], source: str | Path, target: str | Path) -> Iterator[WithImages]:
    """Yield the records of file `source` with image paths that hold in file `target`.

    Paths are relative where the image lies below the folder of `target`, and absolute elsewhere, since a relative path
    may not leave its file's folder.
    """
    folder = Path(os.path.abspath(target)).parent
    for record in records:
        images = tuple(_relocate(path, source, folder) for path in record.images)
        yield record if images == record.images else record.model_copy(update={"images": images})


def _relocate(path: str, source: str | Path, folder: Path) -> str:
    if os.path.isabs(path):
        return path
    return path_below(folder, resolve_image(path, os.path.abspath(source)))


def path_below(folder: Path, place: Path) -> str:
    """Return how a record in a file of `folder` (absolute) names an image: relative below that folder, absolute elsewhere."""
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else str(place)
