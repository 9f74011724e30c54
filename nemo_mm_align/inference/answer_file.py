"""The file of answers: appended as answers end, resumed after a kill, put into prompt order at the end.

Beside ``candidates.jsonl`` stand ``candidates.settings.json``: what all answers depend on, and
``candidates.provenance.jsonl``: what each of them was made from. A run with other settings or pictures does not add to the
file. One process writes; `lock` keeps a second run away.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol

from nemo_mm_align.core import lock
from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.core.lock import lock_of
from nemo_mm_align.core.nested import differing
from nemo_mm_align.core.outputs import file_to_write
from nemo_mm_align.inference.requests import Key, raise_faults, request_key
from nemo_mm_align.schema.answer_provenance import Hashes, ProvenanceFile, digest, provenance_path, read_provenance
from nemo_mm_align.schema.records import CandidateSet, RecordAppender, RecordType, numbered_records, write_records

logger = logging.getLogger(__name__)

LATER_FACTS = ("model", "tokenizer", "image_processor")
"""Settings that files of earlier versions do not name: such a file goes on, with a warning."""


class PicturesOf(Protocol):
    """The pictures that answers are about."""

    def read(self, keys: Iterable[Key]) -> None:
        """Look at the pictures of some requests."""

    def of(self, key: Key) -> Hashes:
        """Return the hashes of a request's pictures as they are now; "" for one that cannot be read."""

    def names(self, key: Key) -> list[str]:
        """Return the paths of a request's pictures."""


def key_of_set(record: CandidateSet) -> Key:
    """Return which request a line of candidates answers."""
    return request_key(record.prompt_id, record.sampling.get("attributes"))


class AnswerFile(Generic[RecordType]):
    """Use as a context manager around a run.

    Args:
        path: the JSONL file of records.
        settings: what every answer of the file depends on; plain values.
        pictures: of the requests that are answered; None where there are none.
        kind: of the records, with what tells which request one answers.

    Raises:
        UserError: the file holds answers made otherwise, from other pictures, or edited by hand, or another process
            writes it.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        pictures: PicturesOf | None = None,
        kind: tuple[type[RecordType], Callable[[RecordType], Key]] = (CandidateSet, key_of_set),  # type: ignore[assignment]
    ) -> None:
        self.path, self.settings_path = path, path.with_name(f"{path.stem}.settings.json")
        self._pictures = pictures
        record_type, self._key = kind
        file_to_write(path)
        file_to_write(self.settings_path)
        file_to_write(provenance_path(path))
        self._lock = lock_of(path)
        lock.take(self._lock, path, "give another out")
        try:
            self._unsaid: list[str] = []
            self._check_settings(json.loads(json.dumps(dict(settings))))
            self._appender = RecordAppender(path)
            found = list(numbered_records(path, record_type)) if path.stat().st_size else []
            self.sets = {self._key(record): record for _, record in found}
            self._in_order = list(self.sets)
            self._provenance = ProvenanceFile(path, self._checked_provenance(found).items())
            if self._unsaid:
                listed = " and ".join(self._unsaid)
                logger.warning("%s: an earlier version did not note %s: taken to be as now", path, listed)
        except BaseException:
            lock.release(self._lock)
            raise

    def _check_settings(self, settings: dict[str, Any]) -> None:
        if not self.path.is_file() or self.path.stat().st_size == 0:
            self._write_settings(settings)
            return
        known = self._stored_settings()
        self._unsaid = [name for name in LATER_FACTS if name in settings and name not in known]
        said = {name: value for name, value in settings.items() if name not in self._unsaid}
        found = [f"{name} {old} (now {new})" for name, old, new in differing(known, said)]
        if found:
            listed = ", ".join(found)
            raise UserError(
                f"{self.path}: holds answers made with other settings: {listed}. Give another out, remove the file, or "
                "take the settings back."
            )
        if self._unsaid:
            self._write_settings({**known, **settings})

    def _stored_settings(self) -> dict[str, Any]:
        stored = self.settings_path.read_text(encoding="utf-8") if self.settings_path.is_file() else ""
        if not stored:
            raise UserError(f"{self.path}: exists, but not {self.settings_path.name} beside it. Give another out.")
        try:
            known = json.loads(stored)
        except (ValueError, RecursionError):
            known = None
        if not isinstance(known, dict):
            raise UserError(f"{self.settings_path}: not a JSON object. Put it back as it was, or give another out.")
        return known

    def _write_settings(self, settings: Mapping[str, Any]) -> None:
        write_json(self.settings_path, settings, indent=1)

    def _checked_provenance(self, found: Sequence[tuple[int, RecordType]]) -> dict[str, Hashes]:
        """Return what the answers were made from: as it was noted, or, for a file of an earlier version, as it is now."""
        if not found:
            return {}
        if self._pictures is not None:
            self._pictures.read(self._key(record) for _, record in found)
        noted = read_provenance(self.path)
        if noted is None:
            self._unsaid.append("pictures")
            return {digest(record): self._now(record) for _, record in found}
        changed = []
        for line, record in found:
            answer = digest(record)
            if answer not in noted:
                forget = f"remove {provenance_path(self.path).name}, after which answers count as they stand"
                remedy = f"take the change back, remove the line (it is answered anew), or {forget}."
                raise RecordError(self.path, line, "this answer was changed after it had been written.", remedy)
            changed += self._changed_pictures(record, noted[answer])
        raise_faults(
            changed,
            f"{self.path}: take the pictures back, remove these lines (they are answered anew), or give another out.",
        )
        return noted

    def _now(self, record: RecordType) -> Hashes:
        return self._pictures.of(self._key(record)) if self._pictures is not None else ()

    def _changed_pictures(self, record: RecordType, noted: Hashes) -> list[str]:
        now = self._now(record)
        names = self._pictures.names(self._key(record)) if self._pictures is not None else []
        others = [name for name, old, new in zip(names, noted, now, strict=False) if old and new and old != new]
        others += ["the number of its pictures"] if self._pictures is not None and len(noted) != len(now) else []
        listed = ", ".join(dict.fromkeys(others))
        return [f"the answer to prompt {self._key(record)[0]!r} is about another picture: {listed}"] if others else []

    def append(self, record: RecordType) -> None:
        """Write the answers to one request, and before them what they were made from, and flush them to disk."""
        self._provenance.note(record, self._now(record))
        self._appender.append(record)
        self.sets[self._key(record)] = record
        self._in_order.append(self._key(record))

    def finish(self, keys: Sequence[Key]) -> None:
        """Put the complete file into the order of the requests' keys; it is replaced in one step."""
        if keys != self._in_order:
            write_records(self.path, (self.sets[key] for key in keys))

    def close(self) -> None:
        """Close the files and let the lock go."""
        self._appender.close()
        self._provenance.close()
        lock.release(self._lock)

    def __enter__(self) -> AnswerFile[RecordType]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
