"""Writing a checkpoint while training goes on: megatron-core's asynchronous save, one at a time.

A forked process of every rank writes what the tensors held at the fork (CPU) or what was copied off the device before it
(GPU). The checkpoint becomes complete in the training processes, after all ranks' writers have ended well.
"""

from __future__ import annotations

import os
import pickle
import queue
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, AsyncRequest


class BackgroundWriter:
    """Runs at most one save in the background; all ranks make the same calls."""

    def __init__(self) -> None:
        self._queue = AsyncCallsQueue(persistent=False)
        self._on_failure: Callable[[BaseException], None] = lambda error: None

    @property
    def pending(self) -> bool:
        """Whether a save has not been completed yet."""
        return bool(self._queue.get_num_unfinalized_calls())

    def start(self, request: AsyncRequest, on_failure: Callable[[BaseException], None]) -> None:
        """Write in the background, after the save before this one is complete.

        Args:
            request: what to write, and what completes it afterwards on all ranks.
            on_failure: called with the error on all ranks if the write fails; raises what a user should see.
        """
        self.finish()
        self._on_failure = on_failure
        self._queue.schedule_async_request(request)

    def poll(self) -> bool:
        """Complete the pending save if all ranks have written; return whether one was completed."""
        return self._finalize(blocking=False)

    def finish(self) -> bool:
        """Wait for the pending save and complete it; return whether one was completed."""
        return self._finalize(blocking=True)

    def _finalize(self, blocking: bool) -> bool:
        if not self.pending:
            return False
        try:
            return bool(self._queue.maybe_finalize_async_calls(blocking=blocking))
        except BaseException as error:  # torch's CheckpointException is no Exception
            self._on_failure(error)
            raise


class _ResultFile:
    """A queue for one item that outlives its writer.

    megatron-core asks a manager process instead. That one takes 3 s to start, and a SIGTERM to all processes of a job step,
    which is how Slurm announces a requeue, ends it: the save that the signal asks for would be the one that fails.
    """

    def __init__(self) -> None:
        descriptor, name = tempfile.mkstemp(prefix="checkpoint-results-")
        os.close(descriptor)
        os.unlink(name)
        self._path = Path(name)

    def put(self, item: Any) -> None:
        """Store the item, complete or not at all."""
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(pickle.dumps(item))
        os.replace(temporary, self._path)

    def get_nowait(self) -> Any:
        """Take the item; `queue.Empty` if the writer has not stored one."""
        try:
            item = pickle.loads(self._path.read_bytes())
        except FileNotFoundError:
            raise queue.Empty from None
        self._path.unlink()
        return item


def install() -> None:
    """Hand results over in files from now on; idempotent."""
    filesystem_async._get_write_results_queue = _ResultFile
