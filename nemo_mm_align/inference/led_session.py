"""A decoding session that one rank leads: it alone knows what is asked, and the other ranks of its replica follow it.

What was admitted and given up since the last step is broadcast with the step. A server leads so: requests come to one rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy
import torch
from megatron.core import parallel_state

from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer, Progress
from nemo_mm_align.inference.session import DecodingSession

_Calls = list[tuple[Literal["admit", "retire"], tuple[Any, ...]]]
"""What a session was asked for, tensors as arrays of numpy."""


class LedSession:
    """On the replica's first rank `admit`, `step` and `retire` as a `DecodingSession` does; on the others `follow`.

    Leaving the block ends the others' `follow`, unless a step was interrupted: they are in the middle of it then, and the process
    has to end, with which its launcher ends theirs. While nothing is asked the leader goes on calling `step`
    now and then: a broadcast that waits for longer than the process group's time-out is taken for a dead rank.

    Args:
        session: this rank's.
    """

    def __init__(self, session: DecodingSession) -> None:
        self._session = session
        self._group = parallel_state.get_model_parallel_group()
        self._leader = min(torch.distributed.get_process_group_ranks(self._group))
        self._calls: _Calls = []
        self._within_step = False

    @property
    def leads(self) -> bool:
        """Whether this rank leads its replica."""
        return torch.distributed.get_rank() == self._leader

    @property
    def slots(self) -> int:
        """See `DecodingSession.slots`."""
        return self._session.slots

    @property
    def length(self) -> int:
        """See `DecodingSession.length`."""
        return self._session.length

    @property
    def reused(self) -> tuple[int, int]:
        """See `DecodingSession.reused`."""
        return self._session.reused

    @property
    def pictures_reused(self) -> tuple[int, int]:
        """See `DecodingSession.pictures_reused`; the rank that leads has the first stage."""
        return self._session.pictures_reused

    def cached(self, row: int) -> int:
        """See `DecodingSession.cached`."""
        return self._session.cached(row)

    @property
    def lost(self) -> list[int]:
        """See `DecodingSession.lost`."""
        return self._session.lost

    @property
    def is_whole(self) -> bool:
        """Whether no other rank follows this one."""
        return bool(self._group.size() == 1)

    @property
    def room(self) -> int:
        """See `DecodingSession.room`."""
        return self._session.room

    @property
    def busy(self) -> bool:
        """See `DecodingSession.busy`."""
        return self._session.busy

    def admit(self, requests: Sequence[DecodingRequest], images: ImageBatch | None = None) -> list[int]:
        """See `DecodingSession.admit`; what is refused here, nobody hears of."""
        arrays = images and (images.pixels_NCHW.numpy(), images.index_K.numpy(), images.names)
        rows = self._session.admit(requests, images)
        self._calls.append(("admit", (list(requests), arrays)))
        return rows

    def retire(self, row: int) -> GeneratedAnswer:
        """See `DecodingSession.retire`."""
        answer = self._session.retire(row)
        self._calls.append(("retire", (row,)))
        return answer

    def step(self) -> list[Progress]:
        """See `DecodingSession.step`."""
        calls, self._calls = self._calls, []
        self._tell(calls)
        self._within_step = not self.is_whole
        progress = self._session.step()
        self._within_step = False
        return progress

    def follow(self, on_progress: Callable[[list[Progress]], object] = lambda progress: None) -> None:
        """Do what the leader does, until it leaves."""
        while (calls := self._tell(None)) is not None:
            for name, arguments in calls:
                if name == "retire":
                    self._session.retire(*arguments)
                else:
                    requests, arrays = arguments
                    self._session.admit(requests, arrays and _batch(*arrays))
            on_progress(self._session.step())

    def _tell(self, calls: _Calls | None) -> _Calls | None:
        """Broadcast what the leader says; None is that it leaves."""
        box = [calls]
        if self._group.size() > 1:
            torch.distributed.broadcast_object_list(box, self._leader, group=self._group)
        return box[0]

    def __enter__(self) -> Self:
        self._session.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._session.__exit__(*error)
        if self.leads and not self._within_step:
            self._tell(None)


def _batch(pixels_NCHW: numpy.ndarray, index_K: numpy.ndarray, names: tuple[str, ...]) -> ImageBatch:
    return ImageBatch(torch.from_numpy(pixels_NCHW), torch.from_numpy(index_K), names)
