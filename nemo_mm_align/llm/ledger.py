"""The memory of calls: an append-only JSONL file with one line per attempt, which survives a kill at any moment.

A line is either a configuration (who is asked, on what; once per change) or an attempt. A key that has a successful
attempt is never asked again; failures are kept as failures, with the raw reply, and are never results. Of several
successes under one key the last one holds: a person corrects an answer by a later line, and the earlier one stays.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import ValidationError

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.llm.failures import FailureKind
from nemo_mm_align.llm.ledger_index import KEY_HEAD, RECENT_S, Failures, Index, timestamp
from nemo_mm_align.llm.running.spending import Spending
from nemo_mm_align.schema.records import Record

log = logging.getLogger(__name__)

RAW_LIMITS = {"ok": 65_536, "failed": 20_000}
"""Characters of a reply that are kept: what the longest judgement needs, and of errors what shows what they are."""

REMEDY = "delete this line (its request is then asked again) or restore the file from a copy."


class Attempt(Record):
    """One call. What was read from its reply stands in fields of a subclass.

    The order of the fields is that of a line: what a start reads of each line comes first (`SUCCESS_HEAD`).

    Args:
        key: content key of the request.
        status: ``ok`` (then there is what was read from the reply) or ``failed`` (then `kind` and `message` are there).
        configuration: fingerprint of the configuration line that this attempt belongs to.
        usage: token counts.
        seconds: how long the call took.
        time: when it ended, UTC.
        prompt_id: of the prompt that was asked about, for people.
        raw: the reply as it came, of failures too, up to `RAW_LIMITS` characters.
        raw_length, raw_sha256: characters and hash (of the UTF-8 bytes) of a reply that was longer; 0 and "" where `raw` is
            all of it.
        model_version: what the service says it answered with.
        source: digest of the line of a batch's replies that this was read from; "" for a call.
        revision: 0 for the first answer under a key, 1 for its first correction, and so on.
    """

    key: str
    status: Literal["ok", "failed"]
    configuration: str
    usage: dict[str, int] = {}
    seconds: float = 0.0
    time: str = ""
    prompt_id: str
    kind: FailureKind | None = None
    message: str = ""
    retry_after: float | None = None
    raw: str = ""
    raw_length: int = 0
    raw_sha256: str = ""
    model_version: str = ""
    source: str = ""
    revision: int = 0


AttemptT = TypeVar("AttemptT", bound=Attempt)


class Ledger(Generic[AttemptT]):
    """An open ledger file; a subclass says what its attempts are (`record`).

    Appending is safe from several threads; a second process is refused.

    Args:
        path: the JSONL file, made where it is missing.
        fsync_every: lines between two flushes to the disk itself. A kill of the process loses no line at any value; a
            crash of the machine loses at most the lines since the last flush, which the next run asks (and pays) again.
        read_only: change and lock nothing; a missing file is an empty ledger. Beside a run that writes it is allowed.

    Raises:
        UserError: the file cannot be opened, another process writes it, or a line is none of a ledger.
    """

    record: type[AttemptT]

    def __init__(self, path: str | Path, fsync_every: int = 1, read_only: bool = False) -> None:
        self.path = Path(path)
        self.fsync_every, self.read_only = fsync_every, read_only
        self._lock, self._flush_lock = threading.Lock(), threading.Lock()
        self._unflushed, self._flushed_size = 0, 0
        self._file = self._open()
        try:
            if not read_only:
                self._lock_file()
            self._index, self._size = self._scan()
            self._size_before = self._size
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush to the disk and close."""
        if not self._file.closed:
            if not self.read_only:
                os.fsync(self._file.fileno())
            self._file.close()

    def succeeded(self, key: str) -> bool:
        """Whether there is an answer under this key."""
        return key in self._index.offsets

    def knew(self, key: str) -> bool:
        """Whether there was an answer under this key when the ledger was opened."""
        return self._index.offsets.get(key, self._size_before) < self._size_before

    def failures(self, key: str) -> Failures:
        """Return the failed attempts at a key (zero where there are none)."""
        return self._index.failures.get(key, Failures())

    def spending(self, configuration: str) -> Spending:
        """Return what the attempts under a configuration cost; it grows with each attempt that is added."""
        return self._index.spending.setdefault(configuration, Spending())

    @property
    def configurations(self) -> Mapping[str, Mapping[str, Any]]:
        """What the attempts under a configuration's fingerprint were asked with, the latest one last."""
        return self._index.configurations

    def recent_calls(self) -> list[tuple[float, int]]:
        """Return (start in seconds since 1970, tokens) of calls of earlier runs that ended in the last `RECENT_S`."""
        return list(self._index.recent)

    def result(self, key: str) -> AttemptT:
        """Return the answer that holds for a key; `KeyError` where there is none."""
        offset = self._index.offsets[key]
        with self.path.open("rb") as file:
            file.seek(offset)
            return self._attempt(file.readline(), offset)

    def results(self, keys: list[str]) -> Iterator[AttemptT | None]:
        """Yield per key the answer that holds, or None; the file is opened once."""
        with self._reader() as file:
            for key in keys:
                offset = self._index.offsets.get(key)
                if offset is None:
                    yield None
                else:
                    file.seek(offset)
                    yield self._attempt(file.readline(), offset)

    def attempts(self, keys: Collection[str] | None = None) -> Iterator[AttemptT]:
        """Yield all attempts, or those at some keys, in the order of the file, failed ones too."""
        with self._reader() as file:
            offset = 0
            for line in file:
                head = KEY_HEAD.match(line)  # the others say who was asked
                if head and (keys is None or head[1] is None or head[1].decode() in keys):
                    attempt = self._attempt(line, offset)
                    if keys is None or attempt.key in keys:
                        yield attempt
                offset += len(line)

    def _reader(self) -> BufferedReader:
        """The file, to be read from its start; one that is not there reads as empty."""
        return (self.path if self.path.exists() else Path(os.devnull)).open("rb")

    def add_configuration(self, fingerprint: str, configuration: dict[str, Any]) -> None:
        """Record what the attempts that name `fingerprint` were asked with, unless it stands in the ledger already."""
        if fingerprint not in self._index.configurations:
            self._append({"configuration": fingerprint, "time": now(), **configuration})
            self._index.configurations[fingerprint] = configuration

    def add(self, attempt: AttemptT) -> None:
        """Append one attempt. Raises `OSError` (a full disk) with the file as it was before."""
        attempt = _shortened(attempt)
        offset = self._append(attempt.model_dump(mode="json", exclude_defaults=True))
        with self._lock:
            if attempt.status == "ok":
                self._index.add_success(attempt.key, offset)
            else:
                self._index.add_failure(attempt.key, attempt.kind or "", attempt.message)
            self._index.add_cost(attempt.configuration, attempt.usage, attempt.kind or "", attempt.seconds)

    def _append(self, value: dict[str, Any]) -> int:
        """Write a line in one go and return its offset; half a line of a full disk is taken back."""
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", errors="replace") + b"\n"
        with self._lock:
            offset = self._size
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:]) or 0
            except OSError as error:
                self._file.truncate(offset)
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            self._size = offset + len(line)
            self._unflushed += 1
        self._flush(offset + len(line))
        return offset

    def _flush(self, end: int) -> None:
        """Flush to the disk where it is due; a line up to `end` that another thread's flush covered needs none."""
        with self._flush_lock:
            with self._lock:
                due, covered, size = self._unflushed >= self.fsync_every, self._unflushed, self._size
            if not due or self._flushed_size >= end:
                return
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            self._flushed_size = size
            with self._lock:
                self._unflushed -= covered

    def _open(self) -> FileIO:
        try:
            if self.read_only:
                return (self.path if self.path.exists() else Path(os.devnull)).open("rb", buffering=0)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self.path.open("ab+", buffering=0)
        except OSError as error:
            raise UserError(
                f"{self.path}: the ledger cannot be opened ({error.strerror}). Correct its permissions, or have it "
                "elsewhere (out=..., or ledger=... where the command has that)."
            ) from None

    def _lock_file(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.path}: another run is writing this ledger. Wait for it, or give this run another out."
            ) from None
        except OSError as error:  # some network file systems know no locks
            log.warning("%s cannot be locked (%s): start no second run on it", self.path, error.strerror)

    def _scan(self) -> tuple[Index, int]:
        """Read the whole file once, mend its end, and return the index and the size in bytes."""
        index, offset, since = Index(), 0, timestamp(time.time() - RECENT_S)
        self._file.seek(0)
        with os.fdopen(os.dup(self._file.fileno()), "rb", buffering=1 << 20) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    line = self._mend(line, offset)
                if line.strip() and not index.note(line, offset, since):
                    raise RecordError(self.path, number, "not a line of a judge ledger.", REMEDY)
                offset += len(line)
        return index, offset

    def _mend(self, tail: bytes, offset: int) -> bytes:
        """Close a last line that only lacks its line end; drop one that was torn by a kill."""
        try:
            whole = isinstance(json.loads(tail), dict)
        except ValueError:
            whole = False
        if whole:
            if not self.read_only:
                self._file.write(b"\n")
            return tail + b"\n"
        if not self.read_only:
            log.warning("%s: dropped a torn last line of %d bytes, left by an interrupted run", self.path, len(tail))
            self._file.truncate(offset)
        return b""

    def _attempt(self, line: bytes, offset: int) -> AttemptT:
        try:
            return self.record.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise self._line_error(offset, f"not an attempt ({where}: {fault['msg']}).") from None

    def line_error(self, key: str, problem: str) -> RecordError:
        """Return what is raised for the answer that holds for a key where its line does not make sense."""
        return self._line_error(self._index.offsets[key], problem)

    def _line_error(self, offset: int, problem: str) -> RecordError:
        return RecordError(self.path, self._line_number(offset), problem, REMEDY)

    def _line_number(self, offset: int) -> int:
        with self.path.open("rb") as file:
            number = 1
            while file.tell() < offset:
                number += file.read(min(1 << 20, offset - file.tell())).count(b"\n")
        return number


def _shortened(attempt: AttemptT) -> AttemptT:
    """Return an attempt whose raw reply is no longer than the ledger keeps."""
    raw, limit = attempt.raw, RAW_LIMITS[attempt.status]
    if len(raw) <= limit:
        return attempt
    digest = hashlib.sha256(raw.encode("utf-8", "replace")).hexdigest()
    return attempt.model_copy(update={"raw": raw[:limit], "raw_length": len(raw), "raw_sha256": digest})


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the millisecond."""
    return timestamp(time.time())
