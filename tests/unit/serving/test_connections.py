"""Connections and what bounds them: bodies that are too long or never come, too many clients, half requests."""

from __future__ import annotations

import asyncio
import resource
import threading

import pytest
import requests
from fastapi import FastAPI

from nemo_mm_align.serving.early import bind
from nemo_mm_align.serving.http_server import HttpServer, most_connections
from tests.unit.serving.scripted_server import LIMITS, ScriptedServer, scripted_server
from tests.unit.serving.test_http import CHAT, everything, raw, server
from tests.unit.serving.toy_model import body
from tests.waiting import PATIENCE_S, wait_until

__all__ = ["server"]


def test_a_body_without_a_length_is_read_to_the_limit_alone(server: ScriptedServer) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection = raw(server, head.encode())
    for _ in range(2):
        connection.sendall(b"c351\r\n" + b" " * 50_001 + b"\r\n")  # the end of the body never comes
    answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /nope HTTP/1.1\r\nContent-Length: 9", 404),
        ("GET /version HTTP/1.1\r\nTransfer-Encoding: chunked", 200),
        (f"PUT {CHAT} HTTP/1.1\r\nContent-Length: 9", 405),
        (f"POST {CHAT} HTTP/1.1\r\nContent-Length: 9\r\nContent-Type: text/plain", 415),
        (f"POST {CHAT} HTTP/1.1\r\nContent-Length: 100001\r\nContent-Type: application/json", 413),
    ],
)
def test_an_answer_before_the_body_has_come_ends_the_connection(server: ScriptedServer, head: str, status: int) -> None:
    answer = everything(raw(server, f"{head}\r\nHost: x\r\n\r\n".encode()))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and b"connection: close" in answer.lower()


def test_a_connection_serves_on_where_bodies_have_come(server: ScriptedServer) -> None:
    address = server.http.address
    with requests.Session() as session:
        for one in ({"json": body(n=0)}, {"data": b""}):
            answer = session.post(address + CHAT, timeout=60, **one)  # type: ignore[arg-type]
            assert answer.status_code in (400, 415) and "Connection" not in answer.headers


def test_connections_beyond_the_most_are_told_so() -> None:
    with scripted_server(LIMITS.model_copy(update={"connections": 2, "header_seconds": 20})) as server:
        silent = [raw(server, b"") for _ in range(2)]
        told = everything(raw(server, b""))
        assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\n") and b'"code":"too_many_connections"' in told
        assert b"connection: close" in told and b"retry-after: 1" in told
        silent[0].close()
        wait_until(lambda: raw_status(server) == b"200")


def raw_status(server: ScriptedServer) -> bytes:
    return everything(raw(server, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).split()[1]


def test_connections_leave_room_for_other_files(caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (140, before[1]))
    try:
        found = most_connections(12), most_connections(13)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found == (12, 12) and caplog.messages == [
        "limits.connections=13: this process may open 140 files (ulimit -n), which leaves room for 12 connections"
    ]


def test_a_fault_of_what_runs_beside_ends_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async def beside() -> None:
        await asyncio.sleep(0.1)
        raise RuntimeError("of the draining")

    dead = threading.Event()
    server = HttpServer(FastAPI(), bind("127.0.0.1", 0), LIMITS, beside, dead.set)
    server.start()
    assert dead.wait(PATIENCE_S) and str(server.failure) == "of the draining"
    assert "the HTTP server has failed" in caplog.text and "of the draining" in caplog.text


def test_half_requests_end(server: ScriptedServer) -> None:
    silent, begun = raw(server, b""), raw(server, b"GET /health HT")
    slow = raw(server, f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode())
    slow.sendall(b"Content-Length: 100\r\n\r\n{")
    assert everything(slow).startswith(b"HTTP/1.1 408 ")
    assert everything(silent) == everything(begun) == b""
    later = raw(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    first = b""
    while not first.endswith(b"}"):
        first += later.recv(65536)
    later.sendall(b"GET")  # half of another request, on a connection that has served one
    assert everything(later) == b""
