"""Folders that need not exist yet."""

from __future__ import annotations

import os
from pathlib import Path


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder itself in the nearest one that exists."""
    existing = nearest_existing(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
