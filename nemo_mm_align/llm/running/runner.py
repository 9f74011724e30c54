"""Makes many calls at once: bounded concurrency, retries, a clean stop, every attempt in the ledger."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from nemo_mm_align.core.configuration import StrictModel
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.failures import PERMANENT_KINDS, SERVICE_KINDS, CallFailure
from nemo_mm_align.llm.ledger import Ledger, now
from nemo_mm_align.llm.running.admission import Admission, Ticket
from nemo_mm_align.llm.running.call import Call, Outcome
from nemo_mm_align.llm.running.old_objects import old_objects_left_alone
from nemo_mm_align.llm.running.pacing import Backoff, Breaker
from nemo_mm_align.llm.running.progress import ProgressDisplay, Tally
from nemo_mm_align.llm.running.signals import stop_on_signal

log = logging.getLogger(__name__)

DISPLAY_INTERVAL_S = 0.25

MOST_CONCURRENT, MOST_PROCESSES = 1024, 64


class RunnerSettings(StrictModel):
    """How a run goes about its calls.

    Args:
        concurrency: calls in flight at once, at most `MOST_CONCURRENT`.
        max_attempts: calls for one prompt before it is given up. Failures of the sample itself (unparsable, out of
            range, truncated, recitation) count over all runs, those of the service (rate limit, server, timeout)
            per run.
        backoff_s, max_backoff_s: first and longest wait between attempts at one prompt; it doubles in between.
        max_retry_after_s: a longer wait than this, asked for by the service, gives the prompt up for this run.
        stop_after_failures: calls that fail in a row, over all workers, before the run stops; None for 50, or 5 times
            the concurrency where that is more. It stops instead of trying again in a while: what makes all calls fail
            (a wrong setting, a spent quota, a service that is down) takes a person, and starting again costs nothing.
        retry_set_aside: ask again for prompts that earlier runs have set aside.
        requests_per_minute, tokens_per_minute: limits of the service, never exceeded in any minute; None for none.
        processes: processes that the calls are spread over, at most `MOST_PROCESSES`; worth it where one is busy with
            encoding images.
    """

    concurrency: int = Field(default=8, ge=1)
    max_attempts: int = Field(default=5, ge=1)
    backoff_s: float = Field(default=1.0, ge=0)
    max_backoff_s: float = Field(default=60.0, ge=0)
    max_retry_after_s: float = Field(default=600.0, ge=0)
    stop_after_failures: int | None = Field(default=None, ge=1)
    retry_set_aside: bool = False
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    processes: int = Field(default=1, ge=1)

    @field_validator("concurrency", "processes")
    @classmethod
    def _machine_holds(cls, value: int, info: ValidationInfo) -> int:
        most, each = {
            "concurrency": (MOST_CONCURRENT, "a thread and a connection"),
            "processes": (MOST_PROCESSES, "memory"),
        }[str(info.field_name)]
        if value > most:
            raise ValueError(f"{value:,} are too many for one machine, each takes {each}; give at most {most:,}")
        return value

    @property
    def most_failures(self) -> int:
        """`stop_after_failures`, or its default."""
        return self.stop_after_failures or max(50, 5 * self.concurrency)

    def is_set_aside(self, ledger: Ledger[Any], key: str) -> bool:
        """Whether a request has failed by its own fault often enough to be left alone."""
        failures = ledger.failures(key)
        exhausted = failures.permanent or failures.own >= self.max_attempts
        return exhausted and not self.retry_set_aside


class CallRunner:
    """One run over a number of calls.

    Args:
        ledger: open ledger.
        fingerprint, configuration: under which the attempts are recorded.
        settings: see `RunnerSettings`.
        admission: budget and limits, which each call must pass.
        known: prompts whose answer is known, which are not among the calls.
        doing: what is done, for people: ``labelling``.
    """

    def __init__(
        self,
        ledger: Ledger[Any],
        fingerprint: str,
        configuration: Mapping[str, Any],
        settings: RunnerSettings,
        admission: Admission,
        known: int = 0,
        doing: str = "labelling",
    ) -> None:
        self.ledger, self.settings, self.admission = ledger, settings, admission
        self.tally = Tally(reused=known)
        self.stopped_by_signal: int | None = None
        self.error: BaseException | None = None
        self._fingerprint, self._configuration, self._doing = fingerprint, dict(configuration), doing
        self._backoff = Backoff(settings.backoff_s, settings.max_backoff_s)
        self._breaker = Breaker(settings.most_failures)
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._calls: Iterator[Call] = iter(())
        self._asked: set[str] = set()

    def run(self, calls: Iterable[Call], total: int) -> Tally:
        """Make the calls that the ledger does not know yet.

        A first Ctrl-C or SIGTERM lets the calls in flight end and sets `stopped_by_signal`; a second one ends the
        process at once. `error` is set where the run stopped by itself: too many failures in a row, a refused key, a
        full disk; a used up budget shows in `admission.exhausted`. All finished attempts are in the ledger in every
        case.
        """
        self.tally.total = total
        self.ledger.add_configuration(self._fingerprint, self._configuration)
        self._calls = iter(calls)
        workers = [
            threading.Thread(target=self._work, name=f"call-{index}", daemon=True)
            for index in range(self.settings.concurrency)
        ]
        display = ProgressDisplay(self.tally, self.admission, self._doing)
        with stop_on_signal(self._stop) as caught, old_objects_left_alone(), display:
            for worker in workers:
                worker.start()
            for worker in workers:
                while worker.is_alive():
                    worker.join(DISPLAY_INTERVAL_S)
                    display.update()
        self.stopped_by_signal = caught.number
        return self.tally

    def _work(self) -> None:
        """Make one call after the other until there are none or the run stops."""
        try:
            while not self._stop.is_set() and (call := self._next_call()) is not None:
                self._make(call)
        except BaseException as error:  # handed to the main thread: a worker that dies alone would be missed
            with self._lock:
                self.error = self.error or error
            self._stop.set()

    def _next_call(self) -> Call | None:
        """Return the next call that is to be made; others are counted and passed over."""
        with self._lock:
            for call in self._calls:
                if self.ledger.succeeded(call.key) or call.key in self._asked:
                    self.tally.reused += 1
                elif self.settings.is_set_aside(self.ledger, call.key):
                    self.tally.set_aside += 1
                else:
                    self._asked.add(call.key)
                    return call
        return None

    def _make(self, call: Call) -> None:
        """Make attempts at one call until it is answered, given up, or the run stops."""
        own = 0 if self.settings.retry_set_aside else self.ledger.failures(call.key).own
        service = 0
        while (ticket := self._enter(call)) is not None:
            failure = self._attempt(call, ticket)
            if failure is None:
                return
            own += failure.kind not in SERVICE_KINDS
            service += failure.kind in SERVICE_KINDS
            delay = self._backoff.delay(failure, own + service)
            too_long = (failure.retry_after or 0.0) > self.settings.max_retry_after_s
            if not too_long and (failure.kind == "rate_limit" or failure.retry_after):
                self.admission.limiter.hold(failure.retry_after or delay)
            exhausted = max(own, service) >= self.settings.max_attempts
            if too_long or exhausted or failure.kind in PERMANENT_KINDS or failure.kind == "input":
                break
            if self._stop.wait(delay):
                return
        else:
            return
        with self._lock:
            self.tally.given_up += 1

    def _enter(self, call: Call) -> Ticket | None:
        """Wait for leave to make a call; None where the run stops, for example since the budget is used up."""
        ticket = self.admission.enter(call, self._stop)
        if self.admission.exhausted:
            self._stop.set()
        return ticket

    def _attempt(self, call: Call, ticket: Ticket) -> CallFailure | None:
        """Make one call, record it and settle what it cost; return its failure, if it failed."""
        started = time.monotonic()
        try:
            outcome = call.ask()
        except CallFailure as failure:
            self._record_failure(call, failure, started)
            self.admission.leave(ticket, failure.usage, failure.kind)
            return failure
        self._record_success(call, outcome, started)
        self.admission.leave(ticket, outcome.usage)
        return None

    def _record_success(self, call: Call, outcome: Outcome, started: float) -> None:
        self._record(call, started, status="ok", usage=dict(outcome.usage), **outcome.fields)
        with self._lock:
            self.tally.calls += 1
            self.tally.answered += 1
            self.tally.usage.update(outcome.usage)
            self._breaker.succeeded()

    def _record_failure(self, call: Call, failure: CallFailure, started: float) -> None:
        log.debug("prompt %s: %s", call.facts.get("prompt_id"), failure)
        what = {"kind": failure.kind, "message": failure.message, "retry_after": failure.retry_after}
        self._record(call, started, status="failed", raw=failure.raw, usage=dict(failure.usage), **what)
        with self._lock:
            self.tally.calls += 1
            self.tally.failures[failure.kind] += 1
            self.tally.last_failure = str(failure)
            self.tally.usage.update(failure.usage)
            tripped = self._breaker.failed()
        if failure.kind == "auth":
            self._halt(f"the judge refused the credentials: {failure.message}. Check the API key and its permissions.")
        elif failure.kind == "refused":
            self._halt(
                f"the service works for no prompt: {failure.message}. Nothing done so far is lost: mend the cause and start "
                "the same command again."
            )
        elif tripped:
            self._halt(
                f"{self.settings.most_failures} calls failed in a row, the last with {failure}. Nothing done "
                "so far is lost: mend the cause and start the same command again (see runner.stop_after_failures)."
            )

    def _record(self, call: Call, started: float, **outcome: Any) -> None:
        """Write an attempt to the ledger before anything else is done with it."""
        common: dict[str, Any] = {"key": call.key, "configuration": self._fingerprint, **call.facts}
        seconds = round(time.monotonic() - started, 3)
        self.ledger.add(self.ledger.record(**common, **outcome, seconds=seconds, time=now()))

    def _halt(self, reason: str) -> None:
        with self._lock:
            self.error = self.error or UserError(reason)
        self._stop.set()
