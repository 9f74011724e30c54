"""Links to folders that are replaced in one go."""

from __future__ import annotations

import os
from pathlib import Path


def lead_to(link: Path, target: Path) -> None:
    """Make `link` lead to the folder `target`, which need not be there; one that is there already is replaced.

    A target below the link's own folder is named from there, so that the folder can be moved; others by their whole path.

    Raises:
        OSError: the file system knows no links, or a real folder stands there.
    """
    below = target.is_relative_to(link.parent)
    beside = link.with_name(f".{link.name}.tmp")
    try:
        beside.unlink(missing_ok=True)
        beside.symlink_to(os.path.relpath(target, link.parent) if below else target, target_is_directory=True)
        os.replace(beside, link)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
