"""The page's server: 127.0.0.1 only, a secret in every address, images of prompts that may be shown and nothing else."""

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

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judges.human.answers import FormError
from nemo_mm_align.labeling.judges.human.desk import Desk
from nemo_mm_align.labeling.judges.human.page import render_answers, render_closing, render_complete, render_task
from nemo_mm_align.llm.clients.question_images import load_question_image
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import QuestionImage

log = logging.getLogger(__name__)

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 4 * 1024 * 1024
MAX_FIELDS = 10_000
TIMEOUT_S = 30.0


class LabelServer(ThreadingHTTPServer):
    """Serves a desk; `finished` is set when the person has had enough.

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

    def setup(self) -> None:
        super().setup()
        self._nonce = secrets.token_urlsafe(12)  # of the one reply of this connection

    def do_GET(self) -> None:
        path = self._path()
        if path == "":
            self._send_next()
        elif path == "answers":
            self._send_html(render_answers(self.server.desk, self._nonce))
        elif path is not None and (match := re.fullmatch(r"prompt-([0-9a-f]+)", path)):
            self._send_task(match[1])
        elif path is not None and (match := re.fullmatch(r"image/([0-9a-f]+)/(\d{1,4})", path)):
            self._send_image(match[1], int(match[2]))
        else:
            self._refuse()

    def do_POST(self) -> None:
        form = self._form() if self._path() == "" else None
        if form is None:
            self._refuse()
            return
        desk, key, action = self.server.desk, form.get("key", ""), form.get("action", "save")
        if action == "save":
            try:
                desk.save(key, _number(form.get("revision", "")), form)
            except FormError as error:
                self._send_task(key, HTTPStatus.BAD_REQUEST, form, str(error))
                return
        elif action == "skip":
            desk.skip(key, form)
        else:
            desk.keep(key, form)
        if action == "stop":
            self._end()
        else:
            before = desk.before(key) if action == "back" else None
            self._go_to("answers" if action == "answers" else f"prompt-{before}" if before else "")

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

    def _end(self) -> None:
        unfinished = self.server.desk.current is not None
        closing = "Labelling has stopped; the same command goes on where it was." if unfinished else "All is labelled."
        self._send_html(render_closing(self.server.desk, self._nonce, closing))
        self.server.finished.set()

    def _send_next(self) -> None:
        task = self.server.desk.task()
        if task is None:
            self._send_html(render_complete(self.server.desk, self._nonce))
        else:
            self._send_html(render_task(self.server.desk, self._nonce, task))

    def _send_task(
        self, key: str, status: int = HTTPStatus.OK, values: dict[str, str] | None = None, error: str = ""
    ) -> None:
        task = self.server.desk.task(key)
        if task is None:
            self._refuse()
        else:
            self._send_html(render_task(self.server.desk, self._nonce, task, values, error), status)

    def _send_image(self, key: str, number: int) -> None:
        item = self.server.desk.item(key)
        try:
            if item is None:
                raise CallFailure("bad_request", "an image of a prompt that is not to be shown")
            checked = item.image_hashes[number] if item.image_hashes else ""
            image = load_question_image(QuestionImage(item.image_paths[number], checked), IMAGE_TYPES)
        except (CallFailure, IndexError):
            self._refuse()
            return
        self._send(HTTPStatus.OK, image.data, image.mime_type)

    def _send_html(self, page: str, status: int = HTTPStatus.OK) -> None:
        policy = {"Content-Security-Policy": _policy(self._nonce)}
        self._send(status, page.encode(), "text/html; charset=utf-8", policy)

    def _go_to(self, place: str) -> None:
        self._send(HTTPStatus.SEE_OTHER, b"", "text/plain", {"Location": f"/{self.server.token}/{place}"})

    def _refuse(self) -> None:
        self._send(HTTPStatus.NOT_FOUND, b"not here", "text/plain")

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


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _policy(nonce: str) -> str:
    own = f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
    return f"default-src 'none'; img-src 'self'; {own}; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


def _host_name(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""
