"""Where the images of a record lie."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nemo_mm_align.core.errors import UserError, shorten

MAX_PATH_CHARACTERS = 4096
NO_PATH = re.compile(r"data:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)
"""How data URLs and addresses begin."""


def resolve_image(path: str, record_file: str | Path, image_root: str | Path | None = None) -> Path:
    """Return where an image of a record lies: under `image_root` if given, else beside the record's file.

    An `image_root` is a boundary: nothing outside of it is ever read, whatever the records and the links in that folder
    say. Without one the file is trusted as far as it names absolute paths and its folder holds links.

    Raises:
        UserError: the path leaves that folder: by ``..``, or, where there is an `image_root`, by being absolute or
            through a symbolic link.
    """
    root = Path(image_root) if image_root else Path(record_file).parent
    if len(path) > MAX_PATH_CHARACTERS or NO_PATH.match(path):
        raise UserError(f"image {shorten(path, 40)!r} is no path; store the image as a file and give its path.")
    if os.path.isabs(path):
        if image_root:
            raise UserError(
                f"image path {path} is absolute, but image_root is {root}; write it relative to that folder."
            )
        return Path(path)
    normal = os.path.normpath(path)
    if not path or "\0" in path or normal == "." or normal.split(os.sep)[0] == os.pardir:
        raise UserError(f"image path {path!r} does not name a file inside {root}; write a path inside that folder.")
    if image_root and _link_leaves(root, normal):
        raise UserError(
            f"image path {path!r} leaves image_root {root} through a symbolic link; set image_root to a folder that holds "
            "the files themselves, or copy them."
        )
    return root / normal


def _link_leaves(root: Path, normal: str) -> bool:
    """Whether a path under `root` ends outside of `root` once its links are followed."""
    place = str(root)
    for part in normal.split(os.sep):
        place = os.path.join(place, part)
        if os.path.islink(place):  # only then the costly look at every folder above
            real = os.path.realpath(root / normal)
            return not Path(real).is_relative_to(os.path.realpath(root))
    return False
