"""HTTP for all clients: one deadline for a whole call, replies of bounded size, and no redirect is followed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as BrokenError
from requests.exceptions import ContentDecodingError, ReadTimeout, RequestException, Timeout

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.clients.deadline import POOLS, Deadline

MAX_REPLY_BYTES = 4 * 1024 * 1024
"""What is read of a reply, packed and unpacked; the longest judgement has a tenth of it."""

LONGEST_S = 24 * 3600
CHUNK_BYTES = 64 * 1024
GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
GZIP_MAGIC = b"\x1f\x8b"


class RedirectRefusedError(RequestException):
    """A reply that says to send the request, with key and images, to another address."""


class ReplyTooLargeError(RequestException):
    """A reply of more than `MAX_REPLY_BYTES`."""


class BoundedAdapter(HTTPAdapter):
    """Sends requests of a session; what it returns has been read to the end and unpacked.

    Args:
        timeout_s: seconds for a whole call, from connecting to the last byte of the reply.

    Raises:
        RequestException: from `send`: a redirect, a reply that is too large or not packed as it says, `Timeout` when the
            time is over, however steadily bytes trickle in; and what `requests` raises.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        super().__init__()

    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        """Make connections that a deadline can end."""
        super().init_poolmanager(*args, **settings)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, *args: Any, **settings: Any) -> Any:
        """Make connections to proxies that a deadline can end."""
        manager = super().proxy_manager_for(*args, **settings)
        manager.pool_classes_by_scheme = POOLS
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **settings: Any) -> requests.Response:
        """Make the call; the session's own timeout and stream do not count."""
        request.headers["Accept-Encoding"] = "gzip, deflate"
        settings |= {"stream": True, "timeout": self._timeout_s}
        with Deadline(self._timeout_s) as deadline:
            try:
                response = super().send(request, **settings)
                _read(response)
            except Exception as error:
                if not deadline.expired:
                    raise error from None
            if deadline.expired:  # a connection that is shut down may look like the end of a reply
                raise Timeout(f"no whole reply within {self._timeout_s:g} s (judge.timeout_s)")
        return response


def check_timeout(timeout_s: Any) -> float:
    """Return the seconds that a call may take; raise `UserError` for what is no such time."""
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= LONGEST_S:
        raise UserError(
            f"judge.timeout_s={timeout_s!r}: give the seconds that a call may take, at most {LONGEST_S:,}, for example 120."
        )
    return timeout_s


def make_session(timeout_s: float) -> requests.Session:
    """Return a session, for one thread, whose calls are bounded."""
    return bound(requests.Session(), timeout_s)


def bound(session: requests.Session, timeout_s: float) -> requests.Session:
    """Bound all calls of a session, see `BoundedAdapter`."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, BoundedAdapter(timeout_s))
    return session


def read_environment_once(session: requests.Session, url: str) -> None:
    """Settle proxies and certificates now: a session that trusts the environment goes through all of it per call."""
    settings = session.merge_environment_settings(url, {}, None, None, None)
    session.proxies, session.verify = dict(settings["proxies"]), settings["verify"]
    session.trust_env = False


def _read(response: requests.Response) -> None:
    """Read and unpack the body into the response, or close the connection and raise."""
    try:
        if response.status_code in range(300, 400) and "Location" in response.headers:
            raise RedirectRefusedError(_describe_redirect(response), response=response)
        response._content = b"".join(_unpacked(response))
        response._content_consumed = True  # type: ignore[attr-defined]
    except BaseException:
        response.raw.close()
        raise


def _unpacked(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it unpacks; no more than the limit is ever in memory."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise ContentDecodingError(
            f"the reply is packed by {encoding[:40]!r}, which nobody asked for", response=response
        )
    chunks, size = _chunks(response), 0
    for data in chunks if encoding in ("", "identity") else _inflated(chunks):
        size += len(data)
        if size > MAX_REPLY_BYTES:
            raise _too_large(response)
        yield data


def _chunks(response: requests.Response) -> Iterator[bytes]:
    size = 0
    try:
        while data := response.raw.read(CHUNK_BYTES, decode_content=False):
            size += len(data)
            if size > MAX_REPLY_BYTES:
                raise _too_large(response)
            yield data
    except urllib3.exceptions.ReadTimeoutError as error:
        raise ReadTimeout(str(error), response=response) from None
    except urllib3.exceptions.HTTPError as error:
        raise BrokenError(f"the reply was cut off: {error}", response=response) from None


def _inflated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what gzip or zlib data unpack to, a bounded piece at a time."""
    decoder = None
    try:
        for data in chunks:
            if decoder is None:
                decoder = _decoder(data)
            while data and not decoder.eof:
                yield decoder.decompress(data, CHUNK_BYTES)
                data = decoder.unconsumed_tail
                if decoder.eof and decoder.unused_data.startswith(GZIP_MAGIC):  # members may follow each other
                    decoder, data = zlib.decompressobj(GZIP_OR_ZLIB), decoder.unused_data
        if decoder is not None:
            yield decoder.flush()
            if not decoder.eof:
                raise zlib.error("it ends too early")
    except zlib.error as error:
        raise ContentDecodingError(f"the reply does not unpack: {error}") from None


def _decoder(data: bytes) -> Any:
    """Return a decoder for data that begin like this: gzip, zlib, or the bare stream that some servers call deflate."""
    try:
        zlib.decompressobj(GZIP_OR_ZLIB).decompress(data, 1)
    except zlib.error:
        return zlib.decompressobj(-zlib.MAX_WBITS)
    return zlib.decompressobj(GZIP_OR_ZLIB)


def _too_large(response: requests.Response) -> ReplyTooLargeError:
    return ReplyTooLargeError(
        f"the reply is larger than {MAX_REPLY_BYTES / 2**20:g} MiB, which no judgement is, and was not read on; check that "
        "the address is a judge's",
        response=response,
    )


def _describe_redirect(response: requests.Response) -> str:
    here, location = str(response.url), response.headers["Location"]
    return (
        f"HTTP {response.status_code}: {_host(here)} redirects to {_host(_joined(here, location))}; no redirect is "
        "followed, since it would take API key, prompts and images along. Give the judge the address that answers itself "
        "(judge.api_endpoint or judge.base_url)"
    )


def _joined(base: str, location: str) -> str:
    """Return the address that a redirect names; "" for one that is none."""
    try:
        return urljoin(base, location)
    except ValueError:
        return ""


def _host(url: str) -> str:
    """Return scheme and host of an address, without user, path or query, which may hold secrets."""
    try:
        parts = urlsplit(url)
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return (
            f"{parts.scheme}://{name}{f':{parts.port}' if parts.port else ''}" if name else "an address without a host"
        )
    except ValueError:
        return "an address that cannot be read"
