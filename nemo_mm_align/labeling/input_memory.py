"""What an earlier run found out about its input, kept beside the ledger: what did not change is not read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align import __version__
from nemo_mm_align.core.file_state import file_state, is_settled
from nemo_mm_align.labeling.input_table import InputTable
from nemo_mm_align.schema.image_hashes import ImageHashes

TABLE_VERSION = 1
"""To be raised where the input is checked more strictly than before: tables of earlier checks then hold no longer."""


class InputMemory:
    """Hashes of images (``<ledger>.images``) and the table of the last check without faults (``<ledger>.inputs``).

    Both spare time and nothing else: without them all is read again.

    Args:
        ledger: path of the ledger; None remembers nothing.
        read_only: whether nothing is written.
    """

    def __init__(self, ledger: Path | None = None, read_only: bool = False) -> None:
        self.hashes = ImageHashes(ledger.with_suffix(".images") if ledger else None, read_only)
        self._path = ledger.with_suffix(".inputs") if ledger else None
        self._read_only = read_only
        self._conditions: dict[str, Any] = {}
        self._can_keep = False

    def recall(self, files: Sequence[Path], conditions: Mapping[str, Any]) -> InputTable | None:
        """Return the table of a check under the same conditions, if neither `files` nor any image changed since.

        What is read after this call may be kept for these conditions, by `keep`.
        """
        states = [file_state(path) for path in files]
        named = [[str(path.absolute()), state] for path, state in zip(files, states, strict=True)]
        self._conditions = {"version": [TABLE_VERSION, __version__], "files": named, **conditions}
        self._can_keep = self._path is not None and not self._read_only and all(map(is_settled, states))
        if self._path is None:
            return None
        table = InputTable.read(self._path, self._with_hashes())
        return table if table is not None and self.hashes.all_hold() else None

    def save_hashes(self) -> None:
        """Write the hashes of images; without all of them a table could not be told from an outdated one."""
        self._can_keep &= self.hashes.save()

    def keep(self, table: InputTable) -> None:
        """Write the table of a check without faults, unless one of the files changed just before it was read."""
        if self._can_keep and self._path is not None:
            table.write(self._path, self._with_hashes())

    def _with_hashes(self) -> dict[str, Any]:
        return {**self._conditions, "images": self.hashes.state}
