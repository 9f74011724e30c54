"""HTTP/1.1 for many requests at little cost: one event loop, no framework, and replies that go wrong on purpose."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class HttpRequest:
    """A request with its whole body; names of headers in lower case, `time` (monotonic, s) that of its first byte."""

    path: str
    headers: dict[str, str]
    body: bytes
    time: float


@dataclass
class Reply:
    """What is sent back.

    Args:
        body: an object (sent as JSON) or a text.
        status, headers: of the reply.
        cut: the connection ends after so many bytes of the body.
        delay: seconds before the reply, beside those of the server.
        stall: where the body is cut, nothing more comes, but the connection stays open.
        reset: no reply at all, the connection is reset.
    """

    body: dict[str, Any] | str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay: float = 0.0
    stall: bool = False
    reset: bool = False

    def encode(self) -> bytes:
        """Return head and body (as far as it is sent)."""
        data = (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()
        headers = {"Content-Type": "application/json", **self.headers, "Content-Length": str(len(data))}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} -\r\n{head}\r\n".encode() + data[: self.cut]


@dataclass
class Load:
    """Requests that wait for their reply, now and at most."""

    in_flight: int = 0
    most_in_flight: int = 0

    def begin(self) -> None:
        """A request has come."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def end(self) -> None:
        """Its reply goes out, or its client has gone."""
        self.in_flight -= 1


class Connection(asyncio.Protocol):
    """One client's connection; `answer` returns the reply to a request, whose delay counts from the request's time."""

    def __init__(self, answer: Callable[[HttpRequest], Reply], load: Load, open_connections: set[Connection]) -> None:
        self._answer, self._load, self._open = answer, load, open_connections
        self._buffer, self._began = bytearray(), 0.0
        self._head: tuple[str, dict[str, str], int] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """A client that has gone gets no reply."""
        self._open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._finish()

    def data_received(self, data: bytes) -> None:
        """Collect bytes until a request is whole. Clients wait for a reply before they send the next one."""
        if not self._buffer and self._head is None:
            self._began = time.monotonic()
        self._buffer += data
        if self._head is None and (end := self._buffer.find(HEAD_END)) >= 0:
            self._head = parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + len(HEAD_END)]
        if self._head is not None and len(self._buffer) >= self._head[2]:
            path, headers, length = self._head
            request = HttpRequest(path, headers, bytes(self._buffer[:length]), self._began)
            del self._buffer[:length]
            self._head = None
            self._serve(request)

    def _serve(self, request: HttpRequest) -> None:
        self._load.begin()
        reply = self._answer(request)
        wait = max(0.0, request.time + reply.delay - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait, self._send, reply)

    def _send(self, reply: Reply) -> None:
        self._finish()
        if reply.reset:
            linger = struct.pack("ii", 1, 0)  # closing then sends a reset
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
            return
        self.transport.write(reply.encode())
        if reply.cut is not None and not reply.stall:
            self.transport.close()

    def _finish(self) -> None:
        self._timer = None
        self._load.end()


def parse_head(head: bytes) -> tuple[str, dict[str, str], int]:
    """Return path, headers and length of the body."""
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return first.split(" ")[1], headers, int(headers.get("content-length", 0))
