"""Whether a run can read and write its files: asked before the first call, since afterwards the calls are paid."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.outputs import file_to_write


def check_inputs(paths: Iterable[Path]) -> None:
    """Raise `UserError` for the first file to be read that is not there."""
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file. Give the path of a JSONL file.")


def check_outputs(paths: Iterable[Path]) -> None:
    """Make the folders of files to be written.

    Raises:
        UserError: something other than a file stands at a path, or its folder cannot be made or written to.
    """
    for path in paths:
        file_to_write(path)
