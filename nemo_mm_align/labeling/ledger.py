"""The memory of labelling: an append-only JSONL file with one line per attempt, which survives a kill at any moment.

A line is either a configuration (who judges, on what; once per change) or an attempt. A key that has a successful
attempt is never asked again; failures are kept as failures, with the raw reply, and are never results.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from nemo_mm_align.errors import RecordError, UserError
from nemo_mm_align.labeling.judge import PERMANENT_KINDS, SERVICE_KINDS, FailureKind
from nemo_mm_align.records import Record

log = logging.getLogger(__name__)


class Attempt(Record):
    """One call of a judge.

    Args:
        key: content key of the request.
        prompt_id: of the prompt that was labelled, for people.
        configuration: fingerprint of the configuration line that this attempt belongs to.
        order: indices of the candidates in the order shown to the judge.
        status: ``ok`` (then `ratings` are there) or ``failed`` (then `kind` and `message` are).
        ratings, reasoning: per candidate, in the order of the candidates file.
        raw: the reply as it came, of failures too.
        usage: token counts.
        model_version: what the service says it answered with.
        seconds: how long the call took.
        time: when it ended, UTC.
    """

    key: str
    prompt_id: str
    configuration: str
    order: tuple[int, ...]
    status: Literal["ok", "failed"]
    ratings: tuple[dict[str, float], ...] = ()
    reasoning: tuple[str, ...] = ()
    reference_answer: str | None = None
    kind: FailureKind | None = None
    message: str = ""
    retry_after: float | None = None
    raw: str = ""
    usage: dict[str, int] = {}
    model_version: str = ""
    seconds: float = 0.0
    time: str = ""


@dataclass
class Failures:
    """The failed attempts at one key: `own` counts those that the sample is to blame for, not the service."""

    own: int = 0
    total: int = 0
    permanent: bool = False
    kind: str = ""
    message: str = ""

    def add(self, kind: str, message: str) -> None:
        """Count one more."""
        self.total += 1
        self.own += kind not in SERVICE_KINDS
        self.permanent |= kind in PERMANENT_KINDS
        self.kind, self.message = kind, message


@dataclass
class _Index:
    """Where the successes lie in the file, and what failed so far."""

    offsets: dict[str, int] = field(default_factory=dict)
    failures: dict[str, Failures] = field(default_factory=dict)
    configurations: set[str] = field(default_factory=set)


class Ledger:
    """An open ledger file. Appending is safe from several threads; a second process is refused.

    Args:
        path: the JSONL file, made where it is missing.
        fsync_every: lines between two flushes to the disk itself. A kill of the process loses no line at any value; a
            crash of the machine loses at most the lines since the last flush, which the next run asks (and pays) again.
    """

    def __init__(self, path: str | Path, fsync_every: int = 1) -> None:
        self.path = Path(path)
        self.fsync_every = fsync_every
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab+", buffering=0)
        self._lock = threading.Lock()
        self._unflushed = 0
        try:
            self._lock_file()
            self._index, self._size = self._scan()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush to the disk and close."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def succeeded(self, key: str) -> bool:
        """Whether there is a judgement under this key."""
        return key in self._index.offsets

    def failures(self, key: str) -> Failures:
        """Return the failed attempts at a key (zero where there are none)."""
        return self._index.failures.get(key, Failures())

    def result(self, key: str) -> Attempt:
        """Return the successful attempt at a key; `KeyError` where there is none."""
        offset = self._index.offsets[key]
        with self.path.open("rb") as file:
            file.seek(offset)
            return self._attempt(file.readline(), offset)

    def results(self, keys: list[str]) -> Iterator[Attempt | None]:
        """Yield per key its successful attempt, or None; the file is opened once."""
        with self.path.open("rb") as file:
            for key in keys:
                offset = self._index.offsets.get(key)
                if offset is None:
                    yield None
                else:
                    file.seek(offset)
                    yield self._attempt(file.readline(), offset)

    def add_configuration(self, fingerprint: str, configuration: dict[str, Any]) -> None:
        """Record what the attempts that name `fingerprint` were asked with, unless it stands in the ledger already."""
        if fingerprint not in self._index.configurations:
            self._append({"configuration": fingerprint, "time": now(), **configuration})
            self._index.configurations.add(fingerprint)

    def add(self, attempt: Attempt) -> None:
        """Append one attempt. Raises `OSError` (a full disk) with the file as it was before."""
        offset = self._append(attempt.model_dump(mode="json", exclude_defaults=True))
        with self._lock:
            if attempt.status == "ok":
                self._index.offsets.setdefault(attempt.key, offset)
            else:
                self._index.failures.setdefault(attempt.key, Failures()).add(attempt.kind or "", attempt.message)

    def _append(self, value: dict[str, Any]) -> int:
        """Write a line in one go and return its offset; half a line of a full disk is taken back."""
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", errors="replace") + b"\n"
        with self._lock:
            offset = self._size
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:]) or 0
                self._unflushed += 1
                if self._unflushed >= self.fsync_every:
                    os.fsync(self._file.fileno())
                    self._unflushed = 0
            except OSError as error:
                self._file.truncate(offset)
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            self._size = offset + len(line)
            return offset

    def _lock_file(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.path}: another run is writing this ledger. Wait for it, or give this run its own ledger=..."
            ) from None
        except OSError as error:  # some network file systems know no locks
            log.warning("%s cannot be locked (%s): start no second run on it", self.path, error.strerror)

    def _scan(self) -> tuple[_Index, int]:
        """Read the whole file once, mend its end, and return the index and the size in bytes."""
        index, offset = _Index(), 0
        self._file.seek(0)
        with os.fdopen(os.dup(self._file.fileno()), "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    line = self._mend(line, offset)
                if line.strip():
                    self._note(index, line, number, offset)
                offset += len(line)
        return index, offset

    def _mend(self, tail: bytes, offset: int) -> bytes:
        """Close a last line that only lacks its line end; drop one that was torn by a kill."""
        try:
            whole = isinstance(json.loads(tail), dict)
        except ValueError:
            whole = False
        if whole:
            self._file.write(b"\n")
            return tail + b"\n"
        log.warning("%s: dropped a torn last line of %d bytes, left by an interrupted run", self.path, len(tail))
        self._file.truncate(offset)
        return b""

    def _note(self, index: _Index, line: bytes, number: int, offset: int) -> None:
        try:
            value = json.loads(line)
            if "key" not in value:
                index.configurations.add(value["configuration"])
            elif value["status"] == "ok":
                index.offsets.setdefault(value["key"], offset)
            else:
                index.failures.setdefault(value["key"], Failures()).add(value["kind"], value.get("message", ""))
        except (ValueError, KeyError, TypeError):
            remedy = "delete this line (its request is then asked again) or restore the file from a copy."
            raise RecordError(self.path, number, "not a line of a judge ledger.", remedy) from None

    def _attempt(self, line: bytes, offset: int) -> Attempt:
        try:
            return Attempt.model_validate_json(line)
        except ValidationError as error:
            remedy = "the file was changed by something else; restore it from a copy or delete that line."
            raise UserError(
                f"{self.path}: byte {offset}: not an attempt ({error.error_count()} faults); {remedy}"
            ) from None


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
