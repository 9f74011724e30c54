"""Calls over HTTP are bounded: size of a reply, time of a call, and where key and images go."""

import gzip
import itertools
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest
from nemo_mm_align.llm.clients.transport import MAX_REPLY_BYTES
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.hostile_server import Behaviour, HostileServer, head, hostile_server, whole
from tests.judge_server import Files, generated, make_files
from tests.unit.judges.services import KEY, anthropic, gemini, google_genai, openai

MIB = 2**20
SCORES = {"helpfulness": 3, "correctness": 2, "coherence": 4, "complexity": 1, "verbosity": 0}
TEXT = json.dumps({"ratings": [{"candidate": 1, "reasoning": "so", "scores": SCORES}]})
REPLIES = {
    "gemini": generated(TEXT),
    "openai": {"choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}], "model": "test-001"},
    "anthropic": {"content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn", "model": "test-001"},
}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture(params=[gemini, google_genai, openai, anthropic], ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable:
    return request.param


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, 1)


@pytest.fixture
def asked(files: Files, helpsteer: AttributeSchema) -> JudgeRequest:
    return JudgeRequest(files.prompts[0], ("red",), (files.folder / files.prompts[0].images[0],), helpsteer)


def body_of(make: Callable) -> bytes:
    return json.dumps(REPLIES.get(make.__name__, REPLIES["gemini"])).encode()


def failure_of(make: Callable, behaviour: Behaviour, asked: JudgeRequest, **settings: float) -> CallFailure:
    with hostile_server(behaviour) as server, pytest.raises(CallFailure) as caught:
        make(server.address, **settings).judge(asked)
    return caught.value


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_no_redirect_is_followed_and_both_hosts_are_named(status: str, make: Callable, asked: JudgeRequest) -> None:
    with hostile_server(whole(body_of(make))) as thief:
        port = thief.address.rpartition(":")[2]
        location = f"http://user:word@localhost:{port}/take?it=1"

        def redirect(connection: socket.socket) -> None:
            connection.sendall(head(status, Location=location, Content_Length="0"))

        with hostile_server(redirect) as server, pytest.raises(CallFailure) as caught:
            make(server.address).judge(asked)
        assert (thief.connections, thief.requests) == (0, [])
    assert (len(server.requests), caught.value.kind) == (1, "refused")
    named = f"HTTP {status[:3]}: {server.address} redirects to http://localhost:{port}; no redirect is followed"
    assert named in caught.value.message and "word" not in caught.value.message


def test_a_redirect_to_nowhere_and_within_the_host_is_none_either(make: Callable, asked: JudgeRequest) -> None:
    for location, shown in (("http://[", "an address without a host"), ("/v2/other", "http://127.0.0.1")):

        def moved(connection: socket.socket, location: str = location) -> None:
            connection.sendall(head("302 Found", Location=location, Content_Length="0"))

        failure = failure_of(make, moved, asked)
        assert shown in failure.message and failure.kind == "refused"


def chunked(pieces: Iterator[bytes], sent: list[int]) -> Behaviour:
    def behaviour(connection: socket.socket) -> None:
        connection.sendall(head(Content_Type="application/json", Transfer_Encoding="chunked"))
        for piece in pieces:
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            sent.append(len(piece))

    return behaviour


def test_a_reply_without_end_is_read_up_to_the_limit(make: Callable, asked: JudgeRequest) -> None:
    sent: list[int] = []
    pieces = itertools.repeat(b" " * MIB, 300)
    failure = failure_of(make, chunked(pieces, sent), asked)
    assert failure.kind == "server" and "larger than 4 MiB" in failure.message
    assert sum(sent) < 100 * MIB, "the connection was closed; the rest is what the system's buffers took"


def test_a_packed_reply_counts_as_it_unpacks(make: Callable, asked: JudgeRequest) -> None:
    bomb = gzip.compress(b'{"a": "' + b" " * (64 * MIB) + b'"}', compresslevel=1)
    assert len(bomb) < MAX_REPLY_BYTES / 4
    failure = failure_of(make, whole(bomb, Content_Encoding="gzip"), asked)
    assert failure.kind == "server" and "larger than 4 MiB" in failure.message and failure.raw == ""


def test_packed_data_that_unpack_to_nothing_end_too(make: Callable, asked: JudgeRequest) -> None:
    empty_blocks = zlib.compressobj(wbits=31).compress(b"") + b"\0\0\0\xff\xff" * (MIB // 5)
    sent: list[int] = []
    start = zlib.compressobj(wbits=31)
    head_of_stream = start.compress(b"") + start.flush(zlib.Z_SYNC_FLUSH)
    packed = itertools.chain([head_of_stream], itertools.repeat(empty_blocks, 300))

    def behaviour(connection: socket.socket) -> None:
        connection.sendall(head(Content_Encoding="gzip", Transfer_Encoding="chunked"))
        for piece in packed:
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            sent.append(len(piece))

    assert failure_of(make, behaviour, asked).kind == "server"
    assert sum(sent) < 100 * MIB


PACKED = {
    "gzip": ("gzip", lambda body: gzip.compress(body)),
    "two members": ("x-gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
    "zlib": ("deflate", zlib.compress),
    "bare deflate": ("deflate", lambda body: zlib.compress(body, wbits=-15)),
    "padding behind": ("gzip", lambda body: gzip.compress(body) + b"\0" * 9),
}


@pytest.mark.parametrize(("encoding", "pack"), PACKED.values(), ids=PACKED)
def test_packed_replies_are_read(encoding: str, pack: Callable, make: Callable, asked: JudgeRequest) -> None:
    behaviour = whole(pack(body_of(make)), Content_Encoding=encoding, Content_Type="application/json")
    with hostile_server(behaviour) as server:
        judge = make(server.address)
        replies = [judge.judge(asked) for _ in range(2)]
    assert [reply.ratings for reply in replies] == [(SCORES,), (SCORES,)]
    assert (server.connections, len(server.requests)) == (1, 2), "the connection is used again"


@pytest.mark.parametrize(
    ("encoding", "data"),
    [("gzip", gzip.compress(b"x" * 999)[:-9]), ("gzip", b"no"), ("br", b"x")],
    ids=["cut", "not packed", "unknown"],
)
def test_what_is_not_packed_as_it_says_is_the_servers_fault(encoding, data, make, asked: JudgeRequest) -> None:
    failure = failure_of(make, whole(data, Content_Encoding=encoding), asked)
    assert failure.kind == "server"
    assert ("packed by 'br'" if encoding == "br" else "does not unpack") in failure.message


def drip(server_over: list[HostileServer], data: bytes) -> Behaviour:
    def behaviour(connection: socket.socket) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            if server_over[0].over.wait(0.02):
                return

    return behaviour


@pytest.mark.parametrize(
    "begun", [b"", head(Content_Length="3000"), head(Connection="close")], ids=["head", "body", "body until the end"]
)
def test_time_counts_for_the_whole_call_not_from_byte_to_byte(
    begun: bytes, make: Callable, asked: JudgeRequest
) -> None:
    """Sixty seconds of single bytes: no byte is late, the reply would be."""
    servers: list[HostileServer] = []
    slowly = drip(servers, (b"" if begun else b"HTTP/1.1 200 OK\r\nX: ") + b"x" * 3000)

    def behaviour(connection: socket.socket) -> None:
        connection.sendall(begun)
        slowly(connection)

    with hostile_server(behaviour) as server, pytest.raises(CallFailure) as caught:
        servers.append(server)
        make(server.address, timeout_s=0.5).judge(asked)
    assert caught.value.kind == "timeout" and "0.5 s (judge.timeout_s)" in caught.value.message


def test_a_call_that_came_too_late_leaves_the_next_one_alone(make: Callable, asked: JudgeRequest) -> None:
    calls = itertools.count()
    servers: list[HostileServer] = []

    def behaviour(connection: socket.socket) -> None:
        if next(calls) == 0:
            connection.sendall(head(Content_Length="3000"))
            servers[0].over.wait(30)
        else:
            whole(body_of(make), Content_Type="application/json")(connection)

    with hostile_server(behaviour) as server:
        servers.append(server)
        judge = make(server.address, timeout_s=0.5)
        with pytest.raises(CallFailure, match="timeout"):
            judge.judge(asked)
        judge._timeout_s = 30.0
        judge.client._local.__dict__.clear()
        assert isinstance(judge.judge(asked), JudgeReply)
        server.over.set()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "soon", True])
def test_a_time_that_is_none_is_refused(seconds: object, make: Callable) -> None:
    with pytest.raises(UserError, match=r"judge\.timeout_s="):
        make("http://x", timeout_s=seconds)
