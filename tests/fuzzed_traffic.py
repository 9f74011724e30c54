"""Random requests as bytes on a socket: whole ones, spoilt ones, what no client should do; a number is always the same one."""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from tests.serving_process import KEY
from tests.unit.serving.test_fuzzed_requests import spoilt, valid
from tests.unit.serving.toy_model import assistant, body, data_url, png, text_part, user

CHAT = "/v1/chat/completions"
POSTED = (CHAT, CHAT, CHAT, "/tokenize", "/detokenize", "/v1/scores", "/classify", "/pooling", "/v1/completions")
READ = ("/health", "/version", "/metrics", "/v1/models", "/v1/models/toy", "/v1/models/%ff%00", "/", "/playground/",
        "/playground/config.json", "/playground/../../etc/passwd", "/playground/%2e%2e/app.py", "/favicon.ico", "//",
        "/" + "a" * 9000)  # fmt: skip

Manner = Literal["read", "close", "reset", "stall", "hang up", "slow"]
"""How a client behaves once its bytes are sent: ``stall`` waits for the server to give up, ``hang up`` leaves in mid-answer."""


@dataclass(frozen=True)
class Shot:
    """One client.

    Args:
        parts: bytes, sent one after the other with a pause between them.
        manner: what it does then.
        kind: for the report.
    """

    parts: tuple[bytes, ...]
    manner: Manner
    kind: str


@contextmanager
def unlimited_json() -> Iterator[None]:
    """Let this process write numbers and depths that servers refuse to read."""
    digits, depth = sys.get_int_max_str_digits(), sys.getrecursionlimit()
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(30_000)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(digits)
        sys.setrecursionlimit(depth)


def request(path: str, data: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    """Return the bytes of a request, by default one that says all that it should and ends its connection."""
    own = {"host": "x", "authorization": f"Bearer {KEY}", "connection": "close"}
    if method == "POST":
        own |= {"content-type": "application/json", "content-length": str(len(data))}
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in own.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + data


def _json(values: Any) -> bytes:
    return json.dumps(values).encode()


def _short(source: random.Random, **more: Any) -> bytes:
    """A valid body with a short answer."""
    return _json(body(user(f"w{source.randrange(30)} w4"), max_tokens=source.randrange(1, 24), **more))


def spoilt_body(source: random.Random) -> Shot:
    path = source.choice(POSTED)
    made = spoilt(source) if source.random() < 0.8 else valid(source)
    if source.random() < 0.3 and isinstance(made.get("messages"), list):
        made["messages"] = [*made["messages"], assistant("w1 w2")]  # what attribute models rate
    return Shot((request(path, _json(made)),), "read", "body")


def broken_json(source: random.Random) -> Shot:
    """A body with some bytes changed, cut out or doubled."""
    data = bytearray(_json(valid(source)))
    for _ in range(source.randrange(1, 6)):
        place = source.randrange(len(data))
        data[place : place + source.randrange(3)] = source.randbytes(source.randrange(4))
    return Shot((request(source.choice(POSTED), bytes(data)),), "read", "json")


def unicode_text(source: random.Random) -> Shot:
    """Any characters at all, halves of surrogate pairs among them, as escapes or as bytes."""
    text = "".join(chr(source.choice([source.randrange(0x110000), source.randrange(0xD800, 0xE000), source.randrange(128)]))
                   for _ in range(source.randrange(1, 60)))  # fmt: skip
    values = body(user(text), max_tokens=4, stop=[text[:9]], **{text[:5]: text})
    escaped = source.random() < 0.5
    data = json.dumps(values, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    return Shot((request(source.choice((CHAT, "/tokenize")), data),), "read", "unicode")


def bomb_png(width: int, height: int) -> bytes:
    """A small file that claims to be a large picture, of one colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(b"\0" * min((width // 8 + 1) * height, 1 << 24), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _picture(source: random.Random) -> bytes:
    size = source.randrange(1, 60), source.randrange(1, 60)
    file, mode = io.BytesIO(), source.choice(["RGB", "L", "1", "RGBA", "P", "CMYK", "I;16", "F", "LA"])
    kind = {"CMYK": "JPEG", "F": "TIFF", "LA": "PNG", "I;16": "PNG"}.get(
        mode, source.choice(["PNG", "GIF", "BMP", "WEBP"])
    )
    try:
        Image.new(mode, size, source.randrange(2)).save(file, kind)
    except OSError:
        return png("blue")
    return file.getvalue()


def pictures(source: random.Random) -> Shot:
    """Pictures of all kinds: fine, corrupt, of huge dimensions, or far larger unpacked than packed."""
    data = _picture(source)
    choice = source.randrange(6)
    if choice == 1:
        data = data[: source.randrange(len(data))]
    elif choice == 2:
        spoiled = bytearray(data)
        for _ in range(4):
            spoiled[source.randrange(len(spoiled))] = source.randrange(256)
        data = bytes(spoiled)
    elif choice == 3:
        data = bomb_png(source.choice([1, 30_000, 2**31 - 1, 0, 70_000]), source.choice([1, 30_000, 2**31 - 1, 0]))
    elif choice == 4:
        data = source.randbytes(source.randrange(400))
    url = data_url(data, source.choice(["image/png", "image/jpeg", "text/html", "", "image/svg+xml"]))
    url = source.choice([url, url, url, url[: source.randrange(len(url))], url.replace("base64,", "")])
    shown = {"type": "image_url", "image_url": {"url": url, "detail": source.choice(["low", "high", "x", None])}}
    parts = [shown] * source.choice([1, 1, 2, 20]) + [text_part("w1 w2")]
    return Shot((request(CHAT, _json(body(user(parts), max_tokens=4))),), "read", "picture")


def wrong_length(source: random.Random) -> Shot:
    """A length that is not the body's, is none, or stands there twice."""
    data = _short(source)
    length = source.choice([len(data) - 9, len(data) + 9, -1, 10**30, 0, "x", "+5", "5, 6", " ", "0x10", 2**63, "١٢"])
    return Shot(
        (request(CHAT, data, content_length=f"{length}"),), source.choice(["stall", "close", "reset"]), "length"
    )


def chunked(source: random.Random) -> Shot:
    """A body in chunks, which may be misstated, endless, or cut."""
    data, pieces = _short(source), list[bytes]()
    while data:
        size = source.randrange(1, 60)
        stated = source.choice([b"%x"] * 9 + [b"%xz", b"-%x", b"%x;a=b", b"0%x", b"ffffffffffffffff%x"]) % len(
            data[:size]
        )
        pieces.append(stated + b"\r\n" + data[:size] + b"\r\n")
        data = data[size:]
    end = source.choice([b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"", b"0\r\n"])
    head = request(
        CHAT,
        content_length="",
        transfer_encoding=source.choice(["chunked"] * 4 + ["gzip, chunked", "identity", "chunked, chunked"]),
    )
    return Shot(
        (head, *pieces, end), source.choice(["stall", "close"]) if end[-4:] != b"\r\n\r\n" else "read", "chunked"
    )


def half(source: random.Random) -> Shot:
    """A request that does not come to its end."""
    data = request(CHAT, _short(source))
    return Shot((data[: source.randrange(len(data))],), source.choice(["stall", "close", "reset"]), "half")


def left_stream(source: random.Random) -> Shot:
    """Somebody asks for a stream, or for a whole answer, and leaves."""
    data = _json(
        body(user(f"w{source.randrange(30)}"), stream=source.random() < 0.7, max_tokens=64, n=source.choice([1, 3]))
    )
    return Shot((request(CHAT, data),), source.choice(["hang up", "reset", "close"]), "left")


def slow_reader(source: random.Random) -> Shot:
    stream = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 5}
    return Shot((request(CHAT, _short(source, **stream)),), "slow", "slow")


def slow_writer(source: random.Random) -> Shot:
    data = request(CHAT, _short(source))
    places = sorted(source.sample(range(1, len(data)), 4))
    return Shot(
        tuple(data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)), "read", "slow writer"
    )


def pipelined(source: random.Random) -> Shot:
    """Several requests at once on one connection."""
    paths = [source.choice(("/health", "/version", "/nope", CHAT)) for _ in range(source.randrange(1, 5))]
    whole = [
        request(
            path, _short(source) if path == CHAT else b"", "POST" if path == CHAT else "GET", connection="keep-alive"
        )
        for path in paths
    ]
    return Shot((b"".join([*whole, request("/health", method="GET")]),), "read", "pipelined")


def routes(source: random.Random) -> Shot:
    method = source.choice(
        ["GET", "GET", "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "BREW", "CONNECT", "get", "\x01"]
    )
    path = source.choice(
        [*READ, *POSTED, "".join(chr(source.randrange(33, 127)) for _ in range(9)), "http://y/health", "*", "é", "/a b"]
    )
    return Shot((request(path, method=method),), "read", "route")


def odd_headers(source: random.Random) -> Shot:
    name, value = source.choice(
        [("content_type", kind) for kind in ("text/plain", "", "application/json; charset=utf-7", "multipart/form-data", "\x00")]
        + [("authorization", key) for key in ("", "Bearer", f"Bearer {KEY}x", f"Basic {KEY}", "Bearer é", "x" * 9000)]
        + [("x_request_id", odd) for odd in ("é", "a b", "x" * 5000, "\x7f")]
        + [("host", ""), ("expect", "100-continue"), ("expect", "x"), ("upgrade", "websocket"), ("origin", "null"),
           ("connection", "upgrade"), ("content_encoding", "gzip"), ("accept", "\xff"), ("cookie", "y" * 70_000),
           ("bad name", "x"), ("x", "a\r\n b"), ("transfer_encoding", "chunked"), ("x_forwarded_for", "9" * 999)]
    )  # fmt: skip
    return Shot((request(CHAT, _short(source), **{name: value}),), "stall", "header")


def noise(source: random.Random) -> Shot:
    data = source.choice(
        [
            source.randbytes(source.randrange(1, 300)),
            b"\r\n" * 50,
            b"GET",
            b"\x16\x03\x01\x02\x00\x01",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]
    )
    return Shot((data,), source.choice(["stall", "close"]), "noise")


KINDS: dict[Callable[[random.Random], Shot], int] = {
    spoilt_body: 30, broken_json: 8, unicode_text: 8, pictures: 14, wrong_length: 3, chunked: 5, half: 4, left_stream: 6,
    slow_reader: 3, slow_writer: 3, pipelined: 4, routes: 7, odd_headers: 5, noise: 2,
}  # fmt: skip
"""What is sent, and how often of 102 times."""


def shot(seed: int, number: int) -> Shot:
    """Return a client by its number."""
    source = random.Random(f"{seed}/{number}")
    (make,) = source.choices(list(KINDS), list(KINDS.values()))
    return make(source)
