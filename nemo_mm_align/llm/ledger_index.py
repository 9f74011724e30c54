"""What of a ledger is kept in memory: where each judgement lies, what failed, what was spent; no texts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json

from nemo_mm_align.llm.failures import PERMANENT_KINDS, SERVICE_KINDS
from nemo_mm_align.llm.refusals import kind_of_recorded
from nemo_mm_align.llm.running.spending import Spending

RECENT_S = 120.0
"""How far back the starts of calls are kept in memory, for limits per minute."""

SUCCESS_HEAD = re.compile(
    rb'\{"key": "([^"\\]+)", "status": "ok", "configuration": "([^"\\]+)"'
    rb'(?:, "usage": (\{[^{}]*\}))?(?:, "seconds": ([0-9.]+))?(?:, "time": "([^"\\]+)")?, "'
)
"""The part of a success that the index needs: it stands first in its line, since texts of several kB follow."""

KEY_HEAD = re.compile(rb'\{"key"(?:: "([^"\\]+)",)?')
"""The start of every attempt, with its key where that is written without escapes."""


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
class Index:
    """What of a ledger is kept in memory.

    Args:
        offsets: where the last success of a key lies in the file, in bytes.
        failures: the failed attempts of a key.
        configurations: what the attempts under a fingerprint were asked with, in the order of the file.
        spending: what the attempts under a configuration cost.
        recent: (start in seconds since 1970, tokens) of calls that ended in the last `RECENT_S`.
    """

    offsets: dict[str, int] = field(default_factory=dict)
    failures: dict[str, Failures] = field(default_factory=dict)
    configurations: dict[str, dict[str, Any]] = field(default_factory=dict)
    spending: dict[str, Spending] = field(default_factory=dict)
    recent: list[tuple[float, int]] = field(default_factory=list)

    def add_success(self, key: str, offset: int) -> None:
        """Note that the line at `offset` is a judgement under this key; the last line of the file holds."""
        self.offsets[key] = max(offset, self.offsets.get(key, 0))

    def add_failure(self, key: str, kind: str, message: str) -> None:
        """Count a failed attempt."""
        self.failures.setdefault(key, Failures()).add(kind, message)

    def add_cost(self, configuration: str, usage: dict[str, int], kind: str, seconds: float) -> None:
        """Count what an attempt cost; `kind` of its failure, "" for a judgement."""
        spending = self.spending.get(configuration)
        if spending is None:
            spending = self.spending[configuration] = Spending()
        spending.add(usage, kind, seconds)

    def add_start(self, ended: str, seconds: float, usage: dict[str, int], since: str) -> None:
        """Note when a call began, if that was lately: `since` as written in ledgers, so that texts can be compared."""
        if ended >= since:
            start = datetime.fromisoformat(ended).timestamp() - seconds
            self.recent.append((start, usage.get("input_tokens", 0) + usage.get("output_tokens", 0)))

    def note(self, line: bytes, offset: int, since: str) -> bool:
        """Note what a line of the file says; False where it is no line of a ledger."""
        try:
            if not self._note_success(line, offset, since):
                self._note_any(from_json(line), offset, since)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        return True

    def _note_success(self, line: bytes, offset: int, since: str) -> bool:
        """Note a success by the head of its line alone; False where it is another kind of line, or not in this form.

        Parsing all of it would take ten times as long. What is wrong further on shows when the judgement is read.
        """
        head = SUCCESS_HEAD.match(line)
        if head is None or not line.endswith(b"}\n"):
            return False
        key, configuration, usage_text, seconds_text, ended = head.groups()
        usage = from_json(usage_text) if usage_text else {}
        seconds = float(seconds_text) if seconds_text else 0.0
        self.add_success(key.decode(), offset)
        self.add_cost(configuration.decode(), usage, "", seconds)
        self.add_start(ended.decode() if ended else "", seconds, usage, since)
        return True

    def _note_any(self, value: dict[str, Any], offset: int, since: str) -> None:
        if "key" not in value:
            self.configurations[value["configuration"]] = value
            return
        kind, message = "", str(value.get("message", ""))
        if value["status"] != "ok":
            kind = kind_of_recorded(str(value["kind"]), message, str(value.get("raw", "")))
        if kind:
            self.add_failure(value["key"], kind, message)
        else:
            self.add_success(value["key"], offset)
        usage, seconds = value.get("usage", {}), value.get("seconds", 0.0)
        self.add_cost(value["configuration"], usage, kind, seconds)
        self.add_start(value.get("time", ""), seconds, usage, since)


def timestamp(seconds: float) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
