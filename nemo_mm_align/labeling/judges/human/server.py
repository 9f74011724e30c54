"""The page's server: 127.0.0.1 only, a secret in every address, images of the prompt on the page and nothing else."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from nemo_mm_align.errors import UserError
from nemo_mm_align.labeling.judge import JudgeFailure
from nemo_mm_align.labeling.judges.human.desk import Desk, FormError
from nemo_mm_align.labeling.judges.human.page import render
from nemo_mm_align.labeling.judges.request_images import read_request_image

log = logging.getLogger(__name__)

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 4 * 1024 * 1024
MAX_FIELDS = 10_000
TIMEOUT_S = 30.0


class LabelServer(ThreadingHTTPServer):
    """Serves a desk; `finished` is set when all is labelled or the person has had enough.

    Args:
        desk: what is asked.
        port: on 127.0.0.1, which other machines do not reach; 0 for any free one.
        finished: event to set at the end.
    """

    daemon_threads = True

    def __init__(self, desk: Desk, port: int, finished: threading.Event) -> None:
        self.desk, self.finished = desk, finished
        self.token = secrets.token_urlsafe(24)
        self.error: BaseException | None = None
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise UserError(
                f"judge.port={port}: {error.strerror}. Another page may be open there; choose another port, or 0."
            ) from None

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """End the sitting with the error (a full disk); a browser that goes away is none."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            self.error = error
            self.finished.set()


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        path = self._path()
        if path == "":
            self._send_page()
        elif path is not None and (match := re.fullmatch(r"image/([0-9a-f]+)/(\d{1,4})", path)):
            self._send_image(match[1], int(match[2]))
        else:
            self._send(HTTPStatus.NOT_FOUND, b"not here", "text/plain")

    def do_POST(self) -> None:
        form = self._form() if self._path() == "" else None
        if form is None:
            self._send(HTTPStatus.NOT_FOUND, b"not here", "text/plain")
            return
        desk, key, action = self.server.desk, form.get("key", ""), form.get("action", "save")
        if action == "stop":
            self._end("Labelling has stopped; the same command goes on where it was.")
            return
        try:
            if action == "skip":
                desk.skip(key)
            else:
                desk.save(key, form)
        except FormError as error:
            self._send_page(HTTPStatus.BAD_REQUEST, form, str(error))
            return
        if desk.task is None:
            self._end("All is labelled.")
        else:
            self._send(HTTPStatus.SEE_OTHER, b"", "text/plain", {"Location": f"/{self.server.token}/"})

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: addresses hold the secret."""

    def _path(self) -> str | None:
        """Return the path behind the secret; None where the secret or the host's name is wrong.

        The name is checked since a foreign page could give this address another name (DNS rebinding).
        """
        token, slash, rest = self.path.removeprefix("/").partition("/")
        known = hmac.compare_digest(token.encode(), self.server.token.encode())
        return rest if known and slash and _host_name(self.headers.get("Host", "")) in LOCAL_NAMES else None

    def _form(self) -> dict[str, str] | None:
        length = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").split(";")[0]
        if not length.isdigit() or int(length) > MAX_BODY or kind != "application/x-www-form-urlencoded":
            return None
        text = self.rfile.read(int(length)).decode("utf-8", "replace")
        try:
            fields = parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError:
            return None
        return {name: values[-1].replace("\r\n", "\n") for name, values in fields.items()}

    def _end(self, closing: str) -> None:
        nonce = secrets.token_urlsafe(12)
        page = render(self.server.desk, nonce, closing=closing)
        self._send(
            HTTPStatus.OK, page.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": _policy(nonce)}
        )
        self.server.finished.set()

    def _send_page(self, status: int = HTTPStatus.OK, values: dict[str, str] | None = None, error: str = "") -> None:
        nonce = secrets.token_urlsafe(12)
        page = render(self.server.desk, nonce, values, error)
        self._send(status, page.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": _policy(nonce)})

    def _send_image(self, key: str, number: int) -> None:
        task = self.server.desk.task
        try:
            if task is None or task.job.key != key:
                raise JudgeFailure("bad_request", "an image of another prompt")
            image = read_request_image(task.job.image_paths[number], IMAGE_TYPES)
        except (JudgeFailure, IndexError):
            self._send(HTTPStatus.NOT_FOUND, b"no such image", "text/plain")
            return
        self._send(HTTPStatus.OK, image.data, image.mime_type)

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        common = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in {**common, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _policy(nonce: str) -> str:
    own = f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
    return f"default-src 'none'; img-src 'self'; {own}; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


def _host_name(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""
