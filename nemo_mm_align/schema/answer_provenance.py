"""What each line of an answers file was made from: beside ``answers.jsonl`` stands ``answers.provenance.jsonl``.

One line per answer: a digest of its record, by which a line that was edited by hand is noticed, and the SHA-256 of each of
its pictures, by which a picture that has changed under the same path is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.core.hashing import hash_json
from nemo_mm_align.schema.records import CandidateSet, Record, RecordAppender

Hashes = tuple[str, ...]


def provenance_path(answers: Path) -> Path:
    """Return where the provenance of an answers file stands."""
    return answers.with_name(f"{answers.stem}.provenance.jsonl")


def digest(record: Record) -> str:
    """Return what tells a line of answers from any other, however it is spelled (16 hex digits)."""
    values = record.model_dump(mode="json", exclude_defaults=True)
    return hash_json(values)


def read_provenance(answers: Path) -> dict[str, Hashes] | None:
    """Return the picture hashes by the digest of the answers; None where nothing was noted.

    Raises:
        RecordError: a line is none of ours; only the last one may be torn.
    """
    path = provenance_path(answers)
    if not path.is_file():
        return None
    return dict(_entries(path))


def _entries(path: Path) -> Iterator[tuple[str, Hashes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                value = json.loads(line)
                int(value["answer"], 16)
                yield value["answer"], tuple(map(str, value["images"]))
            except (ValueError, KeyError, TypeError, RecursionError):
                if line.endswith(b"\n"):  # else torn by a kill
                    remedy = f"remove {path.name}: what the answers were made from is then no longer known."
                    raise RecordError(path, number, "not a line of provenance.", remedy) from None


class CandidateOrigins:
    """What `sample` noted of its candidates, for those who read them later; 100 bytes or so per prompt.

    Args:
        candidates: the candidates file.
    """

    def __init__(self, candidates: Path) -> None:
        path = provenance_path(candidates)
        entries = _entries(path) if path.is_file() else ()
        self._pictures = {int(answer, 16): _combined(images) for answer, images in entries}
        self.edited = 0
        """Lines so far that are others than `sample` wrote."""

    def check(self, record: CandidateSet, images: Sequence[str]) -> None:
        """Count an edited line; raise `UserError` where candidates are about other pictures.

        Args:
            images: hashes of the prompt's pictures as they are now.
        """
        if not self._pictures:
            return
        noted = self._pictures.get(int(digest(record), 16))
        if noted is None:
            self.edited += 1
        elif noted not in (UNKNOWN, _combined(images)):
            raise UserError(
                "its candidates are about another picture than lies there now. Take that back, sample anew, or remove the "
                "candidates' provenance file, after which they count as they stand."
            )


UNKNOWN = b""


def _combined(images: Sequence[str]) -> bytes:
    """A short digest of picture hashes; `UNKNOWN` where one of them is."""
    return hashlib.sha256(" ".join(images).encode()).digest()[:8] if all(images) else UNKNOWN


def _line(answer: str, images: Sequence[str]) -> dict[str, Any]:
    return {"answer": answer, "images": list(images)}


class ProvenanceFile:
    """Notes of each answer what it was made from, before the answer itself is written.

    Args:
        answers: the answers file.
        known: entries to begin with; the file is written anew with them.
    """

    def __init__(self, answers: Path, known: Iterable[tuple[str, Hashes]]) -> None:
        path = provenance_path(answers)
        write_lines(path, (json.dumps(_line(*entry)) for entry in dict(known).items()))
        self._appender = RecordAppender(path)

    def note(self, record: Record, images: Sequence[str]) -> None:
        """Write what an answer was made from and flush it to disk."""
        self._appender.append(_line(digest(record), images))

    def close(self) -> None:
        """Close the file."""
        self._appender.close()
