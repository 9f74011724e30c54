"""The HTTP side over real connections: errors in OpenAI's form, clients that leave, keys; see test_connections.py for limits."""

from __future__ import annotations

import json
import math
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import requests
from tokenizers.pre_tokenizers import ByteLevel

from nemo_mm_align.inference.engine import AnswerStep, Ticket
from nemo_mm_align.inference.rows import GeneratedAnswer, TokenLogprobs
from nemo_mm_align.serving.bodies import read_object
from nemo_mm_align.serving.errors import ApiError
from tests.unit.serving.scripted_server import LIMITS, REFUSALS, ScriptedServer, scripted_server
from tests.unit.serving.toy_model import body, schema
from tests.waiting import wait_until

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as found:
        yield found


def post(server: ScriptedServer, path: str = CHAT, **more: Any) -> requests.Response:
    return requests.post(server.http.address + path, timeout=60, **more)


def in_background(server: ScriptedServer, **fields: Any) -> tuple[threading.Thread, list[requests.Response], Ticket]:
    """Ask, and return once the engine has been asked."""
    found: list[requests.Response] = []
    thread = threading.Thread(target=lambda: found.append(post(server, json=body(**fields))), daemon=True)
    before = len(server.engine.tickets)
    thread.start()
    return thread, found, server.engine.newest(before + 1)


def raw(server: ScriptedServer, data: bytes) -> socket.socket:
    connection = socket.create_connection(server.place, 60)
    connection.sendall(data)
    return connection


def everything(connection: socket.socket) -> bytes:
    found = b""
    while part := connection.recv(65536):
        found += part
    return found


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def in_bytes(text: str) -> list[str]:
    """The tokens of single bytes that a text can be said by."""
    written = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return [sign for word, _ in written for sign in word]


def a(server: ScriptedServer) -> int:
    return int(server.chat.served.encoder.tokenizer("a", add_special_tokens=False).input_ids[0])


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "invalid_json"),
        ({"data": b"[]", "headers": {"Content-Type": "application/json"}}, 400, "invalid_json"),
        ({"data": b'{"a": NaN}', "headers": {"Content-Type": "application/json"}}, 400, "invalid_json"),
        ({"data": b'{"a": "\\ud800"}', "headers": {"Content-Type": "application/json"}}, 400, "invalid_json"),
        ({"data": b"\xff", "headers": {"Content-Type": "application/json"}}, 400, "invalid_json"),
        ({"data": b"[" * 90_000, "headers": {"Content-Type": "application/json"}}, 400, "invalid_json"),
        ({"data": b"9" * 90_000, "headers": {"Content-Type": "application/json"}}, 400, "invalid_json"),
        ({"data": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, None),
        ({"json": body(max_tokens=501)}, 400, None),
        ({"data": b" " * 100_001, "headers": {"Content-Type": "application/json"}}, 413, "body_too_large"),
    ],
)
def test_bad_bodies(server: ScriptedServer, sent: dict[str, Any], status: int, code: str | None) -> None:
    answer = post(server, **sent)
    assert answer.status_code == status and answer.json()["error"]["code"] == code
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_no_depth_of_nesting_is_too_much_for_one_part_alone() -> None:
    limit = sys.getrecursionlimit()
    for depth in range(limit - 200, limit):
        try:
            read_object(b'{"u": "\\u0041", "a": ' + b"[" * depth + b"]" * depth + b"}")
        except ApiError as error:
            assert error.status == 400


def test_refusals_take_no_threads(server: ScriptedServer) -> None:
    assert post(server, json={}).status_code == 400 and requests.get(server.http.address, timeout=60).status_code == 404
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("AnyIO")]


def test_unknown_paths_and_methods(server: ScriptedServer) -> None:
    address = server.http.address
    assert requests.get(f"{address}/nope", timeout=60).json()["error"]["type"] == "not_found_error"
    refused = requests.get(f"{address}{CHAT}", timeout=60)
    assert refused.status_code == 405 and refused.headers["Allow"] == "POST"
    assert refused.json()["error"]["message"].endswith("does not take GET, only POST")
    assert requests.options(f"{address}{CHAT}", timeout=60).status_code == 204
    head = requests.head(f"{address}/v1/models", timeout=60)
    assert head.status_code == 200 and head.content == b""
    assert requests.get(f"{address}/v1/models/toy", timeout=60).json()["id"] == "toy"
    missing = requests.get(f"{address}/v1/models/other", timeout=60)
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"
    assert requests.get(f"{address}/version", timeout=60).json()["version"]
    assert post(server, f"{CHAT}/", json=body(), allow_redirects=False).status_code == 404


def test_request_ids_are_echoed_or_made(server: ScriptedServer) -> None:
    def asked(given: str) -> str:
        headers = {"X-Request-Id": given}
        return requests.get(f"{server.http.address}/health", headers=headers, timeout=60).headers["X-Request-Id"]

    assert asked("mine-1") == "mine-1"
    assert len(asked("with blank")) == len(asked("x" * 129)) == 32


def test_what_the_engine_refuses(server: ScriptedServer) -> None:
    for name, status, code in (("full", 429, "queue_full"), ("ending", 503, "draining")):
        server.engine.refusal = REFUSALS[name]
        answer = post(server, json=body())
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert int(answer.headers["Retry-After"]) >= 1
    server.engine.refusal = ValueError("too long")
    assert post(server, json=body()).status_code == 400
    server.engine.refusal = None


def test_a_sweep_that_finds_no_room_is_given_up_and_not_counted() -> None:
    with scripted_server(attributes=schema()) as server:
        server.engine.room = 2
        asked = body(sweep=["verbosity"])
        assert post(server, json=asked).json()["error"]["code"] == "queue_full"
        assert len(server.engine.cancelled) == len(server.engine.tickets) == 2
        assert "request_success_total{" not in requests.get(f"{server.http.address}/metrics", timeout=60).text


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_the_engine_reaches_who_asked(server: ScriptedServer, stream: bool) -> None:
    thread, found, ticket = in_background(server, stream=stream)
    ticket.listener.failed(ticket, RuntimeError("a secret of the server"))
    thread.join()
    error = events(found[0].text)[-1] if stream else found[0].json()
    assert found[0].status_code == (200 if stream else 500)
    assert error["error"]["code"] == "engine_failed" and "secret" not in found[0].text


def test_a_stream_that_waits_gets_comments_and_interleaves_choices(server: ScriptedServer) -> None:
    fields = {"n": 2, "temperature": 1, "stream_options": {"include_usage": True}}
    thread, found, ticket = in_background(server, stream=True, **fields)
    time.sleep(2.5 * LIMITS.keep_alive_seconds)
    token = a(server)
    server.engine.say(ticket, [AnswerStep(1, token), AnswerStep(0, token)])
    server.engine.say(ticket, [AnswerStep(1, token, answer=GeneratedAnswer([token] * 2, "length"))])
    server.engine.say(ticket, [AnswerStep(0, None, answer=GeneratedAnswer([token], "stop"))])
    thread.join()
    assert found[0].text.startswith(": waiting\n\n: waiting\n\ndata: ")
    *chunks, usage = events(found[0].text)
    deltas = [
        (choice["index"], choice["delta"], choice["finish_reason"]) for (choice,) in (one["choices"] for one in chunks)
    ]
    role = {"role": "assistant", "content": ""}
    assert deltas == [
        (1, role, None), (1, {"content": "a"}, None), (0, role, None), (0, {"content": "a"}, None),
        (1, {"content": "a"}, None), (1, {}, "length"), (0, {}, "stop"),
    ]  # fmt: skip
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 3
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert all(chunk["usage"] is None for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["abc", "a€", "a ", "a  bbc "])
def test_log_probabilities_end_with_the_text_that_a_stop_text_cuts(
    server: ScriptedServer, stream: bool, text: str
) -> None:
    thread, found, ticket = in_background(server, stream=stream, stop="bcd", logprobs=True)
    tokens = [int(server.chat.served.encoder.tokenizer.convert_tokens_to_ids(one)) for one in in_bytes(text + "bcd")]
    told = [AnswerStep(0, token, TokenLogprobs(token, -1.0)) for token in tokens]
    for step in told[:-1]:
        server.engine.say(ticket, [step])
    server.engine.say(ticket, [replace(told[-1], answer=GeneratedAnswer(tokens, "stop", text))])
    thread.join()
    choices = [one["choices"][0] for one in (events(found[0].text) if stream else [found[0].json()])]
    parts = [choice["delta" if stream else "message"].get("content", "") for choice in choices]
    assert "".join(parts) == text.strip()
    said = [
        b"".join(bytes(token["bytes"]) for token in (choice["logprobs"] or {"content": []})["content"]).decode()
        for choice in choices
    ]
    assert "".join(said) == text and all(
        one.strip() == part.strip() for one, part in zip(said[:-1], parts, strict=False)
    )


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_numbers_of_json(server: ScriptedServer, stream: bool) -> None:
    token = a(server)
    for logprob in (-math.inf, math.nan):
        thread, found, ticket = in_background(server, stream=stream, logprobs=True, top_logprobs=1)
        told = TokenLogprobs(token, -0.5, ((token, logprob),))
        server.engine.say(ticket, [AnswerStep(0, token, told, GeneratedAnswer([token], "length"))])
        thread.join()
        assert "NaN" not in found[0].text.replace("gave NaN", "") and "Infinity" not in found[0].text
        last = events(found[0].text)[-2 if logprob < 0 else -1] if stream else found[0].json()
        if logprob < 0:
            (content,) = last["choices"][0]["logprobs"]["content"]
            assert content["logprob"] == -0.5 and content["top_logprobs"][0]["logprob"] == -9999.0
        else:
            assert last["error"]["code"] == "no_finite_numbers" and "the model gave NaN" in last["error"]["message"]
            assert found[0].status_code == (200 if stream else 500)


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_leaves_gives_its_request_up(server: ScriptedServer, stream: str) -> None:
    sent = json.dumps(body(stream=stream == "true")).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    before = len(server.engine.tickets)
    connection = raw(server, head.encode() + sent)
    ticket, counted = server.engine.newest(before + 1), generated(server)
    for _ in range(3):
        server.engine.say(ticket, [AnswerStep(0, a(server))])
    connection.close()
    wait_until(lambda: ticket in server.engine.cancelled and server.gate.inside == 0)
    assert generated(server) == counted + 3


def generated(server: ScriptedServer) -> float:
    """Tokens of answers, as the metrics have it."""
    return server.metrics.registry.get_sample_value("nemo_mm_align_generation_tokens_total", {"model_name": "toy"}) or 0


@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_who_leaves_while_a_body_is_read_is_not_waited_for(path: str) -> None:
    sent = json.dumps(body()).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    with scripted_server(most=8) as server, busy(server.chat.reader.threads):
        gone, waits = raw(server, head.encode() + sent), raw(server, head.encode() + sent)
        comes = raw(server, head.encode() + sent[:-1])
        wait_until(lambda: server.gate.inside == 3)
        gone.close()
        wait_until(lambda: server.gate.inside == 2)
        server.http.soon(server.gate.give_up)
        for connection in (waits, comes):
            assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
    assert not server.engine.tickets


@contextmanager
def busy(threads: Executor) -> Iterator[None]:
    """Keep the threads that read bodies from doing so."""
    free = threading.Event()
    for _ in range(2):
        threads.submit(free.wait)
    try:
        yield
    finally:
        free.set()


def test_a_request_has_its_time() -> None:
    with scripted_server(LIMITS.model_copy(update={"request_seconds": 0.3})) as server:
        assert post(server, json=body()).status_code == 504
        (error,) = events(post(server, json=body(stream=True)).text)
        assert error["error"]["code"] == "timeout"
        assert server.engine.cancelled == server.engine.tickets and len(server.engine.tickets) == 2
        page = requests.get(f"{server.http.address}/metrics", timeout=60).text
        assert 'nemo_mm_align_request_success_total{finished_reason="abort",model_name="toy"} 2.0' in page


def test_no_more_are_let_in_than_may_be_in_work() -> None:
    with scripted_server(most=1) as server:
        thread, found, _ = in_background(server)
        assert post(server, json=body()).json()["error"]["code"] == "queue_full"
        assert requests.get(f"{server.http.address}/health", timeout=60).status_code == 200
        server.http.soon(server.gate.close)
        wait_until(lambda: requests.get(f"{server.http.address}/health", timeout=60).status_code == 503)
        assert post(server, json=body()).status_code == 503
        server.http.soon(server.gate.give_up)
        thread.join()
        assert found[0].status_code == 503 and found[0].json()["error"]["code"] == "draining"


def test_without_keys_only_names_of_this_machine_are_right() -> None:
    def told(host: str) -> bytes:
        return everything(raw(server, f"GET /version HTTP/1.1\r\n{host}Connection: close\r\n\r\n".encode()))

    with scripted_server(hosts=("Proxy.example",)) as server:
        here, port = server.place
        right = [f"{here}:{port}", "localhost", f"LOCALHOST:{port}", "a.localhost:1", "127.8.9.1", "[::1]:80", "[::1]"]
        for host in [*right, "proxy.example", "proxy.example.:443"]:
            assert told(f"Host: {host}\r\n").startswith(b"HTTP/1.1 200 "), host
        for host in ["evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil.example",
                     "evil.example:localhost", "xproxy.example", "notlocalhost", "[::2]:80"]:  # fmt: skip
            answer = told(f"Host: {host}\r\n")
            assert answer.startswith(b"HTTP/1.1 403 ") and b"allowed_hosts" in answer and b"api_key_file" in answer, (
                host
            )
        assert post(server, json=body(), headers={"Host": "evil.example"}).json()["error"]["code"] == "host_not_allowed"
    with scripted_server(hosts=(), keys=("one",)) as server:
        assert told("Host: evil.example\r\nAuthorization: Bearer one\r\n").startswith(b"HTTP/1.1 200 ")


def test_keys() -> None:
    with scripted_server(keys=("one", "other"), origins=("https://page.example",)) as server:
        address = server.http.address
        for header in (None, "Bearer", "Bearer wrong", "Basic one", "Bearer on\xe9"):
            headers = {} if header is None else {"Authorization": header.encode("latin-1")}
            for path in ("/v1/models", "/metrics", "/version", "/tokenize"):
                answer = requests.get(address + path, headers=headers, timeout=60)  # type: ignore[arg-type]
                assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
        assert requests.get(f"{address}/health", timeout=60).status_code == 200
        for odd in ("//health", "/health/", "/%2568ealth", "/playground/../version", "/playground/%2e%2e%2fversion"):
            told = everything(raw(server, f"GET {odd} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()))
            assert told.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 404 ")), odd
        for key in ("one", "other"):
            good = {"Authorization": f"bearer {key}", "Origin": "https://page.example"}
            answer = requests.get(f"{address}/v1/models", headers=good, timeout=60)
            assert answer.status_code == 200
            assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"
        asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
        asked |= {"Access-Control-Request-Headers": "authorization,content-type"}
        assert requests.options(f"{address}{CHAT}", headers=asked, timeout=60).status_code == 200
        assert (
            requests.options(
                f"{address}{CHAT}", headers={**asked, "Origin": "https://x.example"}, timeout=60
            ).status_code
            == 400
        )


def test_tokens_of_messages_and_back(server: ScriptedServer) -> None:
    tokens = post(server, "/tokenize", json={"prompt": "a a"}).json()
    assert tokens["count"] == len(tokens["tokens"]) and tokens["max_model_len"] == 3000
    assert post(server, "/detokenize", json={"tokens": [a(server)]}).json() == {"prompt": "a"}
