"""A connection between the leading rank and each other one, from whose end both learn at once that the other has died.

A collective in which a rank is missing waits for minutes, and says then that something took too long. The kernel closes a dead
process's connections right away; those to a node that is gone end after `SILENCE_SECONDS`.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import selectors
import socket
import threading
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 10
_TOKEN_BYTES = 32


class Lifeline:
    """Watches the other ranks until it is let go; all ranks make one.

    Args:
        leads: whether this rank leads.
        others: how many other ranks there are.
        on_loss: called from a thread of its own, once, with the name of who is gone.
    """

    def __init__(self, leads: bool, others: int, on_loss: Callable[[str], None]) -> None:
        self._on_loss, self._released = on_loss, threading.Event()
        self._connections = (self._accept(others) if leads else [self._connect()]) if others else []
        for connection, _ in self._connections:
            _keep_alive(connection)
            connection.settimeout(None)
        if self._connections:
            threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def release(self) -> None:
        """Say that this rank is about to end because its work is done."""
        self._released.set()
        for connection, _ in self._connections:
            with contextlib.suppress(OSError):
                connection.sendall(b".")

    def _accept(self, others: int) -> list[tuple[socket.socket, str]]:
        token, found = secrets.token_bytes(_TOKEN_BYTES), list[tuple[socket.socket, str]]()
        with socket.create_server(("", 0)) as server:
            _shared((server.getsockname()[1], token))
            while len(found) < others:
                connection, _ = server.accept()
                connection.settimeout(SILENCE_SECONDS)
                given = _receive(connection, _TOKEN_BYTES + 4)
                if hmac.compare_digest(given[:_TOKEN_BYTES], token):
                    found.append((connection, f"rank {int.from_bytes(given[_TOKEN_BYTES:], 'big')}"))
                else:
                    connection.close()  # somebody else's
        return found

    def _connect(self) -> tuple[socket.socket, str]:
        port, token = _shared(None)
        connection = socket.create_connection((os.environ.get("MASTER_ADDR", "127.0.0.1"), port), SILENCE_SECONDS)
        connection.sendall(token + torch.distributed.get_rank().to_bytes(4, "big"))
        return connection, "rank 0, which leads"

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for connection, name in self._connections:
                selector.register(connection, selectors.EVENT_READ, name)
            while selector.get_map():
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    if _receive(key.fileobj, 1):  # it ends because its work is done
                        selector.unregister(key.fileobj)
                        continue
                    if not self._released.is_set():
                        self._on_loss(str(key.data))
                    return


def _shared(mine: tuple[int, bytes] | None) -> tuple[int, bytes]:
    """Give all ranks what the first one has."""
    box = [mine]
    torch.distributed.broadcast_object_list(box, 0)
    assert box[0] is not None
    return box[0]


def _receive(connection: socket.socket, count: int) -> bytes:
    """Read so many bytes, fewer where the connection has ended."""
    found = b""
    with contextlib.suppress(OSError):
        while len(found) < count and (part := connection.recv(count - len(found))):
            found += part
    return found


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # Linux
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)
