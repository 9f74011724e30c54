"""The file of answers: appended batch by batch, resumed after a kill, put into prompt order at the end.

Beside ``candidates.jsonl`` stands ``candidates.settings.json``: what the answers depend on. A run with other settings
does not add to the file. One process writes; a lock keeps a second run away.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from nemo_mm_align.errors import UserError
from nemo_mm_align.inference.requests import Request, request_key
from nemo_mm_align.records import CandidateSet, RecordAppender, read_records, write_records


class AnswerFile:
    """Use as a context manager around a run.

    Args:
        path: the JSONL file of `CandidateSet` records.
        settings: what every answer of the file depends on; plain values.

    Raises:
        UserError: the file holds answers made otherwise, or another process writes it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings_path = path, path.with_name(f"{path.stem}.settings.json")
        if path.is_dir():
            raise UserError(f"{path}: is a folder. Give out=FILE.jsonl.")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        self._check_settings(json.loads(json.dumps(dict(settings))))
        self._appender = RecordAppender(path)
        found = list(read_records(path, CandidateSet)) if path.stat().st_size else []
        self.sets = {request_key(record.prompt_id, record.sampling.get("attributes")): record for record in found}
        self._in_order = list(self.sets)

    def _take_lock(self) -> IO[str]:
        lock = self.settings_path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UserError(f"{self.path}: another process is writing it. Wait for it, or give another out.") from None
        return lock

    def _check_settings(self, settings: dict[str, Any]) -> None:
        stored = self.settings_path.read_text(encoding="utf-8")
        if not self.path.is_file() or self.path.stat().st_size == 0:
            self._lock.truncate(0)
            self._lock.write(json.dumps(settings, indent=1) + "\n")
            self._lock.flush()
            return
        if not stored:
            raise UserError(f"{self.path}: exists, but not {self.settings_path.name} beside it. Give another out.")
        known = json.loads(stored)
        differing = [name for name in {**known, **settings} if known.get(name) != settings.get(name)]
        if differing:
            listed = ", ".join(f"{name} {known.get(name)} (now {settings.get(name)})" for name in differing)
            raise UserError(
                f"{self.path}: holds answers made with other settings: {listed}. Give another out, remove the file, or "
                "take the settings back."
            )

    def append(self, record: CandidateSet) -> None:
        """Write the answers to one request and flush them to disk."""
        key = request_key(record.prompt_id, record.sampling.get("attributes"))
        self._appender.append(record)
        self.sets[key] = record
        self._in_order.append(key)

    def finish(self, requests: Sequence[Request]) -> None:
        """Put the complete file into the order of the requests; it is replaced in one step."""
        keys = [request.key for request in requests]
        if keys != self._in_order:
            write_records(self.path, (self.sets[key] for key in keys))

    def close(self) -> None:
        """Close the file and let the lock go."""
        self._appender.close()
        self._lock.close()

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
