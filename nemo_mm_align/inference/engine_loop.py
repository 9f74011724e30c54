"""What engines have in common: a loop in one thread, which ends when it is asked to, or by a fault that everyone is told of."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager


class Refused(Exception):
    """A request is not taken in."""


class QueueFull(Refused):
    """As many requests wait as may."""


class Ending(Refused):
    """The engine ends and takes nothing in."""


class EngineLoop(ABC):
    """A loop of turns.

    Args:
        work: within which the turns are made.
    """

    def __init__(self, work: AbstractContextManager[object]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._ending = False
        self._fault: BaseException | None = None

    @property
    def fault(self) -> BaseException | None:
        """What ended the loop, if anything did that nobody asked for."""
        return self._fault

    def end(self) -> None:
        """Take nothing in any more; `run` returns once everything taken in is answered or cancelled."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def run(self) -> None:
        """Answer requests until `end`; the leading rank's part.

        Raises:
            Exception: what a turn could not do; all requests have been told.
        """
        try:
            with self._work:
                while self._turn():
                    pass
        except BaseException as error:
            self._give_up(error)
            raise

    def _refuse_where_it_ends(self) -> None:
        """Raise `Ending` where nothing is taken in any more; the lock is held."""
        if self._ending or self._fault is not None:
            raise Ending("no more requests are taken in") from self._fault

    @abstractmethod
    def _turn(self) -> bool:
        """Do what there is to be done, once; return whether there will be more."""

    @abstractmethod
    def _give_up(self, error: BaseException) -> None:
        """Keep the fault, and tell everyone of it."""
