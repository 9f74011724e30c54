"""Whether a run can write its files: asked before the first call, since afterwards the calls are paid."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from nemo_mm_align.errors import UserError


def check_outputs(paths: Iterable[Path]) -> None:
    """Make the folders of files to be written.

    Raises:
        UserError: a path is a folder, or its folder cannot be made or written to.
    """
    for path in paths:
        if path.is_dir():
            raise UserError(
                f"{path}: a folder stands where a file is to be written. Choose another out=... or ledger=..."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: its folder cannot be made ({error.strerror}). Choose another place.") from None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UserError(
                f"{path}: no file can be written in {path.parent.resolve()} (read-only, or another user's). Choose "
                "another folder, or correct its permissions."
            )
