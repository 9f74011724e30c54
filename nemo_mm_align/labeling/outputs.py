"""Whether a run can write its files: asked before the first call, since afterwards the calls are paid."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nemo_mm_align.outputs import file_to_write


def check_outputs(paths: Iterable[Path]) -> None:
    """Make the folders of files to be written.

    Raises:
        UserError: something other than a file stands at a path, or its folder cannot be made or written to.
    """
    for path in paths:
        file_to_write(path)
