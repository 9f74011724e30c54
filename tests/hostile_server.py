"""A server that does what it likes with a connection once a request has come: for replies that no framework would send."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Behaviour = Callable[[socket.socket], None]

LONGEST_S = 60.0
"""A client that does not give up by itself is cut off then, so that a test fails instead of hanging."""


@dataclass
class HostileServer:
    """Where it listens, how many connections and requests came, and an event that is set when the test is over."""

    address: str = ""
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def hostile_server(behaviour: Behaviour) -> Iterator[HostileServer]:
    """Listen on 127.0.0.1; each request is read whole and then left to `behaviour`."""
    server, threads, opened = HostileServer(), list[threading.Thread](), list[socket.socket]()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        server.address = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    server.connections += 1
                    opened.append(connection)
                    threads.append(threading.Thread(target=_serve, args=(connection, behaviour, server), daemon=True))
                    threads[-1].start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield server
        finally:
            server.over.set()
            for each in (listener, *opened):  # whoever waits for a client that keeps its connection wakes up
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            for thread in (acceptor, *threads):
                thread.join(LONGEST_S)


def head(status: str = "200 OK", **headers: str) -> bytes:
    """Return the head of a reply; underscores in names stand for hyphens."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode()


def whole(body: bytes, **headers: str) -> Behaviour:
    """Return a behaviour that sends one complete reply."""
    return lambda connection: connection.sendall(head(Content_Length=str(len(body)), **headers) + body)


def _serve(connection: socket.socket, behaviour: Behaviour, server: HostileServer) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(LONGEST_S)
        while request := _read_request(connection):
            server.requests.append(request)
            behaviour(connection)


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += (piece := connection.recv(65536))
        if not piece:
            return b""
    top, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in top.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
    )
    while len(body) < length:
        body += connection.recv(65536)
    return top + b"\r\n\r\n" + body
