"""A deadline for a whole call: the connection is shut down when it is over, whatever the call is doing then.

A timeout of a socket counts from byte to byte: a reply of one byte per second would never meet it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from nemo_mm_align.llm.clients import alarms

_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


class Deadline:
    """Ends the calls that are made within the block after so many seconds; `expired` then tells why they failed.

    It keeps a handle of its own of the newest connection's socket: http.client closes a connection that is not kept alive as soon
    as the head of a reply is read, and the rest of that reply is read all the same.
    """

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._seconds = seconds

    def watch(self, handle: socket.socket) -> None:
        """Shut this connection down when the time is over; at once where it is over already."""
        with self._lock:
            self._forget()
            self._handle = handle.dup()
            if self.expired:
                self._shut_down()

    def _expire(self) -> None:
        with self._lock:
            self.expired = True
            self._shut_down()

    def _shut_down(self) -> None:
        """Whoever reads or writes meets the connection's end."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)

    def _forget(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def __enter__(self) -> Deadline:
        self._token = _current.set(self)
        self._alarms = alarms.ALARMS
        self._alarm = self._alarms.set(self._seconds, self._expire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarms.cancel(self._alarm)
        _current.reset(self._token)
        with self._lock:
            self._forget()


class _Ends:
    """A connection that another thread can shut down at any stage, in a handshake of TLS too.

    It keeps a second handle of its socket: TLS takes the first one over, and closing that would not wake a reader.
    """

    _handle: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        made: socket.socket = super()._new_conn()  # type: ignore[misc]
        self._handle = made.dup()
        self._watch()
        return made

    def request(self, *args: Any, **settings: Any) -> None:
        """Send a request, under the deadline of the call."""
        self._watch()
        super().request(*args, **settings)  # type: ignore[misc]

    def close(self) -> None:
        """Close both handles."""
        super().close()  # type: ignore[misc]
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def _watch(self) -> None:
        deadline = _current.get()
        if deadline is not None and self._handle is not None:
            deadline.watch(self._handle)


class _Connection(_Ends, HTTPConnection):
    pass


class _SecureConnection(_Ends, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


POOLS = {"http": _Pool, "https": _SecurePool}
"""Pools of such connections, by scheme, as urllib3's managers take them."""
