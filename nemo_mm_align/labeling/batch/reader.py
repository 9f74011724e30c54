"""Reads a batch's replies into the ledger, as attempts of the same classes as those of calls.

Reading twice changes nothing: a reply is known by the digest of its line. A line that cannot be used (torn, of another
run) is reported with its number, and nothing is taken from it; the others count.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.hashing import hash_bytes
from nemo_mm_align.labeling.batch.settings import BatchSettings, WritesBatches, batch_judge
from nemo_mm_align.labeling.items import Item, LabelContext
from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest, check_reply, price_of
from nemo_mm_align.labeling.judge_call import recorded
from nemo_mm_align.labeling.judge_ledger import JudgeAttempt, JudgeLedger
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.ledger import now
from nemo_mm_align.llm.running.progress import Tally

log = logging.getLogger(__name__)

SHOWN_FAULTS = 20

REQUEST_FIELDS, OUTCOME_FIELDS = {"request", "body", "params"}, {"response", "error", "status", "result"}
"""What tells lines of requests from lines of replies; some services repeat the request in the reply."""


@dataclass(frozen=True)
class _Place:
    """Where a reply stands."""

    path: Path
    line: int
    offset: int
    digest: str


@dataclass
class _Replies:
    """All replies of the files by their keys, and the lines that hold none. `matched` belong to prompts of this run."""

    places: dict[str, list[_Place]] = field(default_factory=dict)
    matched: int = 0
    doubled: int = 0
    faults: list[str] = field(default_factory=list)


class BatchReader:
    """One run that reads a batch.

    Args:
        context: judge and schema; they must be those of the run that wrote the requests.
        ledger: open ledger.
        settings: `read` names the files.
    """

    def __init__(self, context: LabelContext, ledger: JudgeLedger, settings: BatchSettings) -> None:
        self.context, self.ledger, self.settings = context, ledger, settings
        self.tally = Tally()
        self.error: BaseException | None = None  # these two as other runs have them
        self.stopped_by_signal: int | None = None
        self.faults: list[str] = []
        self._judge: WritesBatches = batch_judge(context.judge)

    def run(self, items: Iterable[Item], total: int) -> Tally:
        """Record the replies to all items. `faults` names the lines that were not used, with file and number.

        Raises:
            UserError: a file is missing, holds no reply at all, or none that belongs to a prompt of this run.
        """
        replies, known = self._index(), _known_sources(self.ledger)
        if not replies.places and replies.faults:
            files = ", ".join(map(str, self.settings.read))
            raise UserError(f"batch.read: no line of {files} is a reply of a batch. The first: {replies.faults[0]}.")
        self.tally.total = total
        self.ledger.add_configuration(self.context.fingerprint, self.context.configuration)
        for item in items:
            if self.ledger.succeeded(item.key):
                self.tally.reused += 1
            for place in replies.places.pop(item.key, ()):
                replies.matched += 1
                if place.digest not in known:
                    self._take(item, place)
        self.faults = replies.faults + self._strangers(replies)
        self._report(replies)
        return self.tally

    def _index(self) -> _Replies:
        """Read all files once and note where each key's replies stand."""
        replies, seen = _Replies(), set[str]()
        for path in self.settings.read:
            for number, offset, line in _lines(path):
                where = f"{path}:{number}"
                value = _parse(line)
                key = self._judge.batch_key(value) if value is not None else None
                digest = hash_bytes(line.strip(), 32)
                if value is None:
                    replies.faults.append(f"{where}: not a JSON object (torn, or another kind of file)")
                elif not isinstance(key, str):
                    replies.faults.append(f"{where}: no key; this is not a line of the judge's kind of batch")
                elif REQUEST_FIELDS & value.keys() and not OUTCOME_FIELDS & value.keys():
                    replies.faults.append(f"{where}: a line of the requests, not of the replies")
                elif digest in seen:
                    replies.doubled += 1
                else:
                    seen.add(digest)
                    replies.places.setdefault(key, []).append(_Place(path, number, offset, digest))
        return replies

    def _take(self, item: Item, place: _Place) -> None:
        """Record the reply at a place, unless the item has a judgement already."""
        if self.ledger.succeeded(item.key):
            log.warning("%s:%d: prompt %s has a judgement already", place.path, place.line, item.prompt.id)
            return
        with place.path.open("rb") as file:
            file.seek(place.offset)
            line = json.loads(file.readline())
        request = item.request(self.context)
        try:
            self._record_success(item, self._reply(line, request), place)
        except CallFailure as failure:
            self._record_failure(item, failure, place)

    def _reply(self, line: Mapping[str, Any], request: JudgeRequest) -> JudgeReply:
        try:
            return check_reply(self._judge.batch_reply(line, request), request)
        except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
            raw = json.dumps(line, ensure_ascii=False)
            raise CallFailure("server", f"not a reply of the service ({error!r})", raw) from None

    def _record_success(self, item: Item, reply: JudgeReply, place: _Place) -> None:
        self._record(item, place, "ok", reply.usage, **recorded(reply, item))
        self.tally.answered += 1

    def _record_failure(self, item: Item, failure: CallFailure, place: _Place) -> None:
        what = {"kind": failure.kind, "message": failure.message, "raw": failure.raw}
        self._record(item, place, "failed", failure.usage, **what)
        self.tally.failures[failure.kind] += 1
        self.tally.last_failure = str(failure)

    def _record(self, item: Item, place: _Place, status: str, usage: Mapping[str, int], **outcome: Any) -> None:
        common = {"key": item.key, "prompt_id": item.prompt.id, "configuration": self.context.fingerprint}
        origin = {"order": item.order, "source": place.digest, "time": now(), "usage": dict(usage)}
        self.ledger.add(JudgeAttempt.model_validate({**common, **origin, "status": status, **outcome}))
        self.tally.calls += 1
        self.tally.usage.update(usage)

    def _strangers(self, replies: _Replies) -> list[str]:
        """Return a fault per reply whose key no prompt of this run has."""
        places = sorted((str(place.path), place.line) for found in replies.places.values() for place in found)
        if places and not replies.matched:
            raise UserError(
                f"none of the {len(places)} replies belongs to a prompt of this run. Judge, its settings, attribute "
                "schema, reference_answer, prompts and candidates must be those that the requests were written with; "
                f"this run's configuration is {self.context.fingerprint}, theirs stands in their manifest."
            )
        return [f"{path}:{line}: a reply to no prompt of this run" for path, line in places]

    def _report(self, replies: _Replies) -> None:
        for fault in self.faults[:SHOWN_FAULTS]:
            log.warning("%s", fault)
        if len(self.faults) > SHOWN_FAULTS:
            log.warning("and %d more lines that were not used", len(self.faults) - SHOWN_FAULTS)
        price, usage = price_of(self.context.judge), self.tally.usage
        cost = ""
        if price is not None:
            amount = price.cost(usage["input_tokens"], usage["output_tokens"])
            cost = f"; {amount:,.2f} {price.currency} at judge.price as given"
        log.info(
            "%d replies recorded (%d judgements), %d lines doubled, %d not used%s",
            self.tally.calls,
            self.tally.answered,
            replies.doubled,
            len(self.faults),
            cost,
        )


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield (number from 1, byte offset, line) of a file, blank lines left out."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. batch.read names files of replies, as the service gives them out.")
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, offset, line
            offset += len(line)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _known_sources(ledger: JudgeLedger) -> set[str]:
    """Return the digests of the lines that the ledger has attempts from."""
    known = set()
    with ledger.path.open("rb") as file:
        for line in file:
            if b'"source": "' in line and (value := _parse(line)):
                known.add(value.get("source", ""))
    return known
