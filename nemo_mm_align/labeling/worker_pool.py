"""A judge whose calls are made by several processes: encoding images keeps one process busy long before its network.

The parent keeps everything else: ledger, limits, budget, retries. A worker is given paths and texts, builds its judge
from the configuration, and makes the calls that it is given at once. It holds no state that matters: a worker that
dies is a failure of the service for the calls that it had, and another takes its place.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judge import Judge, JudgeReply, JudgeRequest, max_output_tokens_of, price_of
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.price import Price
from nemo_mm_align.schema.attributes import AttributeSchema

log = logging.getLogger(__name__)

SPAWN = multiprocessing.get_context("spawn")  # a fork would copy threads' locks and open connections
JOIN_S = 5.0

Outcome = JudgeReply | Exception


class WorkerPoolJudge:
    """A judge that hands its calls to worker processes. Use it as a context: they end with it.

    Args:
        judge: the same judge in this process; it answers for name, settings, price and token counts.
        config: what `build_judge` makes it from in each worker. A secret is named in it (a file, the environment that
            workers inherit), never contained.
        schema: the attributes to score.
        processes: how many workers.
        concurrency: calls in flight at once, over all workers.
    """

    def __init__(
        self, judge: Judge, config: Mapping[str, Any], schema: AttributeSchema, processes: int, concurrency: int
    ) -> None:
        self._judge = judge
        # Each could take all calls: while another is replaced none may queue, since limits count when calls leave.
        self._workers = [_Worker(dict(config), schema, concurrency) for _ in range(processes)]

    @property
    def name(self) -> str:
        """Name of the judge."""
        return self._judge.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the judge: who makes the calls is none of them."""
        return self._judge.settings

    @property
    def reads_metadata(self) -> bool:
        """As the judge says."""
        return self._judge.reads_metadata

    @property
    def price(self) -> Price | None:
        """As the judge says."""
        return price_of(self._judge)

    @property
    def max_output_tokens(self) -> int | None:
        """As the judge says."""
        return max_output_tokens_of(self._judge)

    def judge(self, request: JudgeRequest) -> JudgeReply:
        """Make a call in the worker that has the fewest in flight."""
        ready = [worker for worker in self._workers if worker.ready.is_set()]
        return min(ready or self._workers, key=lambda worker: worker.in_flight).call(request)

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> WorkerPoolJudge:
        for worker in self._workers:
            worker.ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Worker:
    """The parent's side of a worker process, which is started again whenever it dies."""

    def __init__(self, config: dict[str, Any], schema: AttributeSchema, threads: int) -> None:
        self._arguments = (config, schema, threads)
        self._lock = threading.Lock()
        self._pending: dict[int, Future[JudgeReply]] = {}
        self._number = 0
        self._closed = False
        self._broken: str | None = None
        self.ready = threading.Event()
        self._start()

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    def call(self, request: JudgeRequest) -> JudgeReply:
        future: Future[JudgeReply] = Future()
        with self._lock:
            if self._broken:
                raise UserError(self._broken)
            self._number += 1
            self._pending[self._number] = future
            try:
                self._connection.send((self._number, _without_schema(request)))
            except OSError:  # it has just died: `_listen` fails this call with the others and starts another worker
                log.debug("a worker process has gone", exc_info=True)
        return future.result()

    def close(self) -> None:
        """Ask the process to end, and make it end where it does not."""
        self._closed = True
        with self._lock, suppress(OSError):
            self._connection.send(None)  # closing alone ends nothing while `_listen` reads
        self._process.join(JOIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _start(self) -> None:
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()  # or its end would never be noticed
        threading.Thread(target=self._listen, args=(self._connection,), name="judge-worker", daemon=True).start()

    def _listen(self, connection: Connection) -> None:
        """Hand out the replies of one process until it ends."""
        started, problem = False, "it died while it started"
        try:
            while True:
                number, outcome = connection.recv()
                if number:
                    with self._lock:
                        future = self._pending.pop(number)
                    _settle(future, outcome)
                elif outcome is None:
                    started = True
                    self.ready.set()
                else:
                    problem = str(outcome)
        except (EOFError, OSError):
            if not self._closed:
                self._replace(started, problem)

    def _replace(self, started: bool, problem: str) -> None:
        """Fail the calls of a process that died; start another, unless this one never came to work."""
        self._process.join(JOIN_S)
        code = self._process.exitcode
        self.ready.clear()
        with self._lock:
            lost, self._pending = self._pending, {}
            if started:
                log.warning("a worker process ended (exit code %s) with %d calls; it is replaced", code, len(lost))
                self._connection.close()
                self._start()
            else:
                self._broken = f"a worker process could not make the judge: {problem} (exit code {code})."
                self.ready.set()
        for future in lost.values():
            _settle(future, CallFailure("server", f"the worker process ended (exit code {code})"))


def _settle(future: Future[JudgeReply], outcome: Outcome) -> None:
    if isinstance(outcome, JudgeReply):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _without_schema(request: JudgeRequest) -> tuple[Any, ...]:
    """Return all of a request but the schema, which each worker has: it would be most of what is sent."""
    return request.prompt, request.candidates, request.image_paths, request.want_reference, request.image_hashes


def _serve(connection: Connection, config: dict[str, Any], schema: AttributeSchema, threads: int) -> None:
    """Run in the worker process: make calls until the parent sends None or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # both reach the whole group: the parent decides what they mean
        signal.signal(number, signal.SIG_IGN)
    try:
        judge = build_judge(config, schema)
    except Exception as error:
        connection.send((0, UserError(f"{type(error).__name__}: {error}")))
        sys.exit(1)
    lock = threading.Lock()

    def answer(number: int, prompt: Any, candidates: Any, image_paths: Any, want_reference: bool, hashes: Any) -> None:
        outcome = _attempt(judge, JudgeRequest(prompt, candidates, image_paths, schema, want_reference, hashes))
        with lock:
            connection.send((number, outcome))

    connection.send((0, None))
    pool = ThreadPoolExecutor(max_workers=threads)
    with suppress(EOFError, OSError):
        while (call := connection.recv()) is not None:
            number, request = call
            pool.submit(answer, number, *request)
    os._exit(0)  # nobody waits for calls that are still in flight


def _attempt(judge: Judge, request: JudgeRequest) -> Outcome:
    """Make one call; whatever it raises is an outcome, with its traceback as text where it is a bug."""
    try:
        return judge.judge(request)
    except CallFailure as failure:
        return failure
    except UserError as error:
        return UserError(str(error))  # subclasses need not survive pickling
    except Exception:
        return RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
