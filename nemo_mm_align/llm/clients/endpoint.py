"""An address that JSON is posted to, as OpenAI's servers are asked: with the key as a header, one attempt per call."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from pydantic import SecretStr

from nemo_mm_align.llm.clients.http_failures import failure_of_exception
from nemo_mm_align.llm.clients.openai_replies import failure_of_http
from nemo_mm_align.llm.clients.transport import make_session


class Endpoint:
    """An address, with a connection for each thread.

    Args:
        url: whole.
        key: None where none is wanted.
        timeout_s: seconds for a whole call, see `transport.BoundedAdapter`.
    """

    def __init__(self, url: str, key: SecretStr | None, timeout_s: float) -> None:
        self._url, self._key, self._timeout_s = url, key, timeout_s
        self._local = threading.local()

    def post(self, body: Mapping[str, Any]) -> str:
        """Return the reply's text; raise `CallFailure`, which may repeat the key, for anything but status 200."""
        try:
            response = self._session().post(self._url, json=body, allow_redirects=False, auth=Bearer(self._key))
        except Exception as error:  # of requests, urllib3 and what they are made of
            raise failure_of_exception(error) from None
        text = response.content.decode("utf-8", "replace")
        if response.status_code != 200:
            raise failure_of_http(response.status_code, text, response.headers)
        return text

    def _session(self) -> requests.Session:
        """This thread's."""
        if not hasattr(self._local, "session"):
            self._local.session = make_session(self._timeout_s)
        session: requests.Session = self._local.session
        return session


@dataclass(frozen=True)
class Bearer:
    """The key as a header. Being there, it also keeps `requests` from sending what a ``.netrc`` says of the host."""

    key: SecretStr | None = field(repr=False)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the key into the header, if there is one."""
        if self.key is not None:
            request.headers["Authorization"] = f"Bearer {self.key.get_secret_value()}"
        return request
