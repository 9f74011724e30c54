"""Where a task's data come from: read from the user's copy, told apart from the published files by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.datasets.faults import Problem
from nemo_mm_align.datasets.source_rows import rows


@dataclass(frozen=True)
class SourceFile:
    """A file that a task was made of.

    Args:
        name: as it is published, for example ``question.jsonl``.
        path: the user's copy.
        sha256: of its bytes.
        published: whether these are the bytes of the published file; None where no hash of it is known here.
    """

    name: str
    path: str
    sha256: str
    published: bool | None = None

    @property
    def said(self) -> str:
        """In words."""
        known = {True: "as published", False: "changed", None: "no published hash known"}
        return f"{known[self.published]} (sha256 {self.sha256[:12]})"


def source_file(path: Path, published: Mapping[str, str] | None = None, name: str = "") -> SourceFile:
    """Hash a file.

    Args:
        published: SHA-256 (hex) of published files by name.
        name: of the published file; by default the path's own.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give the path of your copy of {name or path.name}.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = (published or {}).get(name or path.name)
    return SourceFile(name or path.name, str(path), digest, None if known is None else digest == known)


def source_rows(
    data: str | Path, split: str = "test", cache: Path | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where it stands, record) of a file, a folder of data files or a Hugging Face name; images become paths.

    Args:
        data: JSON, JSONL, CSV, TSV or parquet file, a folder of them or one written by ``save_to_disk``, or ``owner/name``.
        split: of a dataset.
        cache: folder for images that are stored inside a dataset.

    Raises:
        UserError: no such source, or a record that cannot be read; the message names file and line.
    """
    from nemo_mm_align.datasets.image_store import default_cache

    for row in rows(str(data), split, cache or default_cache()):
        if isinstance(row.record, Problem):
            number = int(row.where.rsplit(" ", 1)[-1])
            raise RecordError(Path(str(data)), number, row.record.problem, row.record.remedy)
        yield row.where, dict(row.record)
