"""Pictures of requests: decoded once, known by their content, refused by name; fetched from allowed hosts alone."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.serving.chat_request import read_chat
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.fetching import allowed_address
from nemo_mm_align.serving.pictures import PictureLimits, PictureSource, PictureStore
from tests.unit.serving.toy_model import body, data_url, png, served, text_part, user

PIXEL_BYTES = 3 * 28 * 28 * 4


class Counting(ImageProcessor):
    """Tells how often it ran, and takes its time."""

    def __call__(self, image: Image.Image) -> Any:
        DECODED.append(image.getpixel((0, 0)))
        time.sleep(0.02)
        return super().__call__(image)


DECODED: list[Any] = []


@pytest.fixture(autouse=True)
def none_decoded() -> None:
    DECODED.clear()


def source(data: bytes, where: str = "messages[0].content[0]") -> PictureSource:
    return PictureSource(data_url(data), where)


def test_pixels_are_trainings_and_each_picture_comes_once() -> None:
    store = PictureStore(ImageProcessor(image_size=28))
    images, names = store.batch([source(png("red")), source(png("blue")), source(png("red"))])
    assert images is not None and images.index_K.tolist() == [0, 1, 0]
    red, blue = (hashlib.sha256(png(colour)).hexdigest() for colour in ("red", "blue"))
    assert names == (red, blue, red) and images.names == (red, blue)
    for place, colour in enumerate(("red", "blue")):
        expected = ImageProcessor(image_size=28)(Image.new("RGB", (12, 8), colour))
        assert np.array_equal(images.pixels_NCHW[place].numpy(), expected)
    assert store.batch([]) == (None, ())


def test_a_request_names_its_pictures_to_the_session_as_to_the_batch() -> None:
    parts = [{"type": "image_url", "image_url": {"url": data_url(png(colour))}} for colour in ("red", "blue", "red")]
    asked = read_chat(body(user([*parts, text_part("?")]), temperature=0), served())
    assert asked.images is not None
    assert asked.requests[0].pictures == tuple(asked.images.names[place] for place in asked.images.index_K.tolist())


def test_a_picture_is_decoded_once_whoever_asks() -> None:
    store = PictureStore(Counting(image_size=28))
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(lambda number: store.batch([source(png(("red", "blue")[number % 2]))]), range(40)))
    assert len(DECODED) == 2 and len({names for _, names in batches}) == 2
    other = PictureSource(data_url(png("red"), "image/webp").replace("base64,", "base64, \n"), "elsewhere")
    assert store.batch([other])[1] == batches[0][1] and len(DECODED) == 2, "the type that a URL claims says nothing"


def test_the_least_recently_shown_pictures_are_forgotten() -> None:
    store = PictureStore(Counting(image_size=28), PictureLimits(kept_bytes=2 * PIXEL_BYTES))
    for colour in ("red", "blue", "red", "green", "red", "blue"):
        store.batch([source(png(colour))])
        assert store.kept_bytes <= 2 * PIXEL_BYTES
    assert DECODED == [(255, 0, 0), (0, 0, 255), (0, 128, 0), (0, 0, 255)]
    none = PictureStore(Counting(image_size=28), PictureLimits(kept_bytes=PIXEL_BYTES - 1))
    none.batch([source(png())])
    assert none.kept_bytes == 0


def refusal(store: PictureStore, url: str) -> str:
    with pytest.raises(ApiError) as caught:
        store.batch([PictureSource(data_url(png()), "a"), PictureSource(url, "messages[2].content[1]")])
    assert (caught.value.status, caught.value.param) == (400, "messages[2].content[1]")
    assert caught.value.message.startswith("messages[2].content[1]: the picture: ")
    return caught.value.message.partition("the picture: ")[2]


def test_pictures_that_cannot_be_read_are_named() -> None:
    store = PictureStore(ImageProcessor(image_size=28), PictureLimits(max_bytes=len(png()) + 300, max_pixels=1000))
    wide = png("red", 200, 6)
    for url, message in {
        data_url(
            b"nothing"
        ): "not an image of a known format (PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM), or a damaged one (7 bytes)",
        data_url(b""): "a damaged one (0 bytes)",
        data_url(png()[:-30]): "damaged or cut off",
        data_url(wide): "200 x 6 pixels; at most 1,000 are allowed",
        data_url(b"x" * (len(png()) + 301)): f"bytes; at most {len(png()) + 300:,} are read",
        data_url(b"x" * 10**5): "Make it smaller",
        "data:image/png;base64,a*b=": "is no base64",
        "data:image/png;base64,abc": "is no base64",
        "data:image/png;base64,\u00e9": "is no base64",
        "data:image/png,abc": "a data URL begins with data:image/png;base64,",
        "data:": "a data URL begins",
        "file:///etc/passwd": "'file:///etc/passwd' is no URL that is read here",
        "/etc/passwd": "is no URL that is read here",
        "": "is no URL that is read here",
        "https://example.org/a.png": "pictures are not fetched from example.org. Send it as a data URL",
    }.items():
        assert message in refusal(store, url)
    assert store.kept_bytes == PIXEL_BYTES, "the good one alone"


class Host(BaseHTTPRequestHandler):
    """Serves a picture, and what a server should not be taken in by."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        port = self.server.server_address[1]
        with suppress(OSError):
            match self.path.partition("?")[0].split("/")[1:]:
                case ["a.png"]:
                    self._send(200, png("blue"))
                case ["endless"]:
                    self._send(200, None)
                    while True:
                        self.wfile.write(b"x" * 65536)
                case ["slow"]:
                    self._send(200, None)
                    while True:
                        self.wfile.write(b"x")
                        time.sleep(0.05)
                case ["slow-head"]:
                    self.wfile.write(b"HTTP/1.0 200 OK\r\n")
                    while True:
                        self.wfile.write(b"X-A: b\r\n")
                        time.sleep(0.05)
                case ["here"]:
                    self._send(302, b"", Location="/a.png")
                case ["loop"]:
                    self._send(302, b"", Location="/loop")
                case ["away"]:
                    self._send(302, b"", Location=f"http://localhost:{port}/a.png")
                case ["port"]:
                    self._send(302, b"", Location=f"http://127.0.0.1:{port + 1}/a.png")
                case ["file"]:
                    self._send(302, b"", Location="file:///etc/passwd")
                case _:
                    self._send(404, b"no")

    def _send(self, status: int, data: bytes | None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if data is not None:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def host() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetching(*hosts: str, **more: Any) -> PictureStore:
    return PictureStore(ImageProcessor(image_size=28), PictureLimits(hosts=hosts, **more))


def test_allowed_hosts_are_fetched_from(host: ThreadingHTTPServer) -> None:
    port = host.server_address[1]
    store = fetching(f"127.0.0.1:{port}", f"LOCALHOST:{port}")
    for url in (
        f"http://127.0.0.1:{port}/a.png?key=1",
        f"http://127.0.0.1:{port}/here",
        f"HTTP://localhost:{port}/a.png",
    ):
        assert store.batch([PictureSource(url, "a")])[1] == (hashlib.sha256(png("blue")).hexdigest(),)
    assert host.seen[0] == ("/a.png?key=1", f"127.0.0.1:{port}")  # type: ignore[attr-defined]
    assert len(host.seen) == 4, "the redirect too; what lies behind an address may change"  # type: ignore[attr-defined]
    network = fetching(f"localhost:{port}", "127.0.0.0/8")
    assert network.batch([PictureSource(f"http://localhost:{port}/a.png", "a")])[0] is not None


def test_nothing_else_is_fetched(host: ThreadingHTTPServer) -> None:
    port = host.server_address[1]
    here = f"http://127.0.0.1:{port}"
    allowed, name, other = (
        fetching(f"127.0.0.1:{port}", max_bytes=10**6),
        fetching(f"localhost:{port}"),
        fetching("127.0.0.1"),
    )
    host.seen.clear()  # type: ignore[attr-defined]
    for store, url, message in [
        (name, f"http://localhost:{port}/a.png", "unless the server allows it (allowed_image_hosts)"),
        (other, f"{here}/a.png", f"pictures are not fetched from 127.0.0.1:{port}"),
        (allowed, f"http://127.0.0.1:{port + 1}/a.png", "pictures are not fetched from"),
        (allowed, f"http://user:word@127.0.0.1:{port}/a.png", "a URL with a user"),
        (allowed, f"http://127.0.0.1:{port}@evil.example/", "a URL with a user"),
        (allowed, "http://[::1", "is no URL"), (allowed, "http://127.0.0.1:99999/", "is no URL"),
        (allowed, "http:///a", "none at all"),
        (allowed, f"{here}/" + "a" * 5000, "is a URL with"),
    ]:  # fmt: skip
        assert message in refusal(store, url)
    assert host.seen == [], "nobody was asked"  # type: ignore[attr-defined]
    for path, message in {
        "missing": "could not be fetched (status 404)",
        "away": "is redirected to another host",
        "port": "pictures are not fetched from",
        "file": "is redirected to another host",
        "loop": "more than 3 redirects",
        "endless": "has more than 1,000,000 bytes",
    }.items():
        assert message in refusal(allowed, f"{here}/{path}")


@pytest.mark.parametrize(
    ("address", "hosts", "allowed"),
    [
        ("8.8.8.8", (), True), ("10.1.2.3", (), False), ("10.1.2.3", ("10.0.0.0/8",), True),
        ("::ffff:8.8.8.8", (), True), ("::ffff:10.1.2.3", (), False), ("::ffff:10.1.2.3", ("10.1.2.3:80",), True),
        ("64:ff9b::8.8.8.8", (), True), ("64:ff9b::10.1.2.3", (), False), ("64:ff9b::127.0.0.1", (), False),
        ("64:ff9b:1::8.8.8.8", (), False), ("64:ff9b:1::8.8.8.8", ("64:ff9b:1::/48",), True),
        ("2002:808:808::1", (), True), ("2002:a01:203::1", (), False), ("2002:7f00:1::", (), False),
        ("2001:0:808:808::f7f7:f7f7", (), True), ("2001:0:808:808::f5fe:fdfc", (), False),
        ("::127.0.0.1", (), False), ("::1", (), False), ("::1", ("[::1]:80",), True),
        ("2606:4700::1111", (), True), ("fd00::1", (), False), ("ff0e::1", (), False),
    ],
)  # fmt: skip
def test_an_address_counts_as_what_it_reaches(address: str, hosts: tuple[str, ...], allowed: bool) -> None:
    if allowed:
        assert str(allowed_address(address, 80, hosts)) == str(ip_address(address))
    else:
        with pytest.raises(UserError, match="is a private address"):
            allowed_address(address, 80, hosts)


@pytest.mark.parametrize("path", ["slow", "slow-head"])
def test_a_host_that_takes_its_time_is_not_waited_for(host: ThreadingHTTPServer, path: str) -> None:
    port, start = host.server_address[1], time.monotonic()
    message = refusal(fetching(f"127.0.0.1:{port}", timeout=0.4), f"http://127.0.0.1:{port}/{path}")
    assert "could not be fetched (it took more than 0.4 s). Send it as a data URL" in message
    assert time.monotonic() - start < 5
