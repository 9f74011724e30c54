"""The file of answers: appended batch by batch, resumed after a kill, put into prompt order at the end.

Beside ``candidates.jsonl`` stands ``candidates.settings.json``: what the answers depend on. A run with other settings
does not add to the file. One process writes; `lock` keeps a second run away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align import lock
from nemo_mm_align.atomic import write_json
from nemo_mm_align.errors import UserError
from nemo_mm_align.inference.requests import Request, request_key
from nemo_mm_align.lock import lock_of
from nemo_mm_align.outputs import file_to_write
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
        file_to_write(path)
        file_to_write(self.settings_path)
        self._lock = lock_of(path)
        lock.take(self._lock, path, "give another out")
        try:
            self._check_settings(json.loads(json.dumps(dict(settings))))
            self._appender = RecordAppender(path)
            found = list(read_records(path, CandidateSet)) if path.stat().st_size else []
        except BaseException:
            lock.release(self._lock)
            raise
        self.sets = {request_key(record.prompt_id, record.sampling.get("attributes")): record for record in found}
        self._in_order = list(self.sets)

    def _check_settings(self, settings: dict[str, Any]) -> None:
        stored = self.settings_path.read_text(encoding="utf-8") if self.settings_path.is_file() else ""
        if not self.path.is_file() or self.path.stat().st_size == 0:
            write_json(self.settings_path, settings, indent=1)
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
        lock.release(self._lock)

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
