"""Pictures by http and https: from the hosts that a server allows, and from nowhere else.

A name is looked up once, its address checked, and the connection made to that address: a name that points to another machine
a moment later gains nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from http.client import HTTPException
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import HTTPError

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.llm.clients.deadline import POOLS, Deadline

USUAL_PORTS = {"http": 80, "https": 443}
MAX_REDIRECTS = 3
CHUNK_BYTES = 65536
MAX_URL = 4096

Address = IPv4Address | IPv6Address

_IPV4_AT_THE_END = (ip_network("64:ff9b::/96"), ip_network("::/96"))
"""NAT64 (RFC 6052), and the form without a prefix (RFC 4291), which nobody should use any more."""
_OWN_NAT64 = ip_network("64:ff9b:1::/48")
"""A site's own translators (RFC 8215): where in such an address the IPv4 one lies, they alone know."""


def fetch(url: str, hosts: Sequence[str], max_bytes: int, seconds: float) -> bytes:
    """Return what lies behind a URL.

    Args:
        url: http or https.
        hosts: allowed ones, see `PictureLimits`.
        max_bytes: of the reply.
        seconds: for all of it, redirects too.

    Raises:
        UserError: it is not allowed, or cannot be had so.
    """
    parts = _allowed(url, hosts)
    with Deadline(seconds) as deadline:
        try:
            data = _follow(parts, hosts, max_bytes, seconds)
        except (HTTPError, HTTPException, OSError, UnicodeError) as error:
            reason = f"it took more than {seconds:g} s" if deadline.expired else type(error).__name__
            raise UserError(f"could not be fetched ({reason}). Send it as a data URL.") from None
        if deadline.expired:  # a connection that is shut down may look like the end of a reply
            raise UserError(f"could not be fetched (it took more than {seconds:g} s). Send it as a data URL.")
    return data


def _follow(parts: SplitResult, hosts: Sequence[str], max_bytes: int, seconds: float) -> bytes:
    """The reply behind a few redirects."""
    for _ in range(MAX_REDIRECTS + 1):
        reply = _ask(parts, hosts, seconds)
        try:
            location = reply.get_redirect_location()
            if not location:
                return _read(reply, max_bytes)
        finally:
            reply.close()
        parts = _redirected(parts, str(location), hosts)
    raise UserError(f"more than {MAX_REDIRECTS} redirects. Send it as a data URL.")


def _allowed(url: str, hosts: Sequence[str]) -> SplitResult:
    """The URL's parts, if its host is one of those that are allowed."""
    try:
        parts = urlsplit(url[: MAX_URL + 1])
        port = parts.port
    except ValueError:
        raise UserError("is no URL. Send it as a data URL.") from None
    if len(url) > MAX_URL or not parts.hostname or parts.username is not None or not url.isascii():
        raise UserError("is a URL with a user, without a host, or none at all. Send it as a data URL.")
    host, usual = parts.hostname, USUAL_PORTS[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    names = {f"{shown}:{port or usual}", *((shown, host) if port in (None, usual) else ())}
    if names.isdisjoint(item.lower() for item in hosts):
        raise UserError(
            f"pictures are not fetched from {shorten(parts.netloc, 80)}. Send it as a data URL (data:image/png;base64,...), or "
            "have the host allowed by the server (allowed_image_hosts)."
        )
    return parts


def _redirected(parts: SplitResult, location: str, hosts: Sequence[str]) -> SplitResult:
    target = urljoin(parts.geturl(), location)
    if urlsplit(target).scheme not in USUAL_PORTS or urlsplit(target).hostname != parts.hostname:
        raise UserError("is redirected to another host. Give the address where it lies, or send it as a data URL.")
    return _allowed(target, hosts)


def _ask(parts: SplitResult, hosts: Sequence[str], seconds: float) -> BaseHTTPResponse:
    host, port = str(parts.hostname), parts.port or USUAL_PORTS[parts.scheme]
    address = allowed_address(host, port, hosts)
    secure: dict[str, Any] = {"server_hostname": host, "assert_hostname": host} if parts.scheme == "https" else {}
    pool = POOLS[parts.scheme](str(address), port, timeout=Timeout(total=seconds), maxsize=1, retries=False, **secure)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Host": parts.netloc, "Accept": "image/*", "Accept-Encoding": "identity"}
    return pool.urlopen("GET", target, headers=headers, redirect=False, preload_content=False)


def allowed_address(host: str, port: int, hosts: Sequence[str]) -> Address:
    """Return where a host lies; raise `UserError` for a private machine that is not listed by its address."""
    found = [ip_address(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        reached = reached_by(address)
        if _is_public(reached) or any(_holds(item, one) for item in hosts for one in (address, reached)):
            return address
    raise UserError(
        f"{shorten(host, 80)} is a private address, which is not fetched from unless the server allows it (allowed_image_hosts)."
    )


def reached_by(address: Address) -> Address:
    """Return where packets to an address end: the IPv4 address that one of IPv6 stands for, by whichever of the usual ways."""
    if isinstance(address, IPv4Address):
        return address
    if any(address in network for network in _IPV4_AT_THE_END):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    _, client = address.teredo or (None, None)
    return address.ipv4_mapped or address.sixtofour or client or address


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and address not in _OWN_NAT64


def _holds(item: str, address: Address) -> bool:
    """Whether an entry of the allowed hosts is this address, alone or with a port, or a network that it is in."""
    for text in (item, item.rpartition(":")[0]):
        try:
            return address in ip_network(text.strip("[]"))
        except ValueError:
            continue
    return False


def _read(reply: BaseHTTPResponse, max_bytes: int) -> bytes:
    if reply.status != 200:
        raise UserError(f"could not be fetched (status {reply.status}). Send it as a data URL.")
    data = bytearray()
    for chunk in reply.stream(CHUNK_BYTES, decode_content=False):
        data += chunk
        if len(data) > max_bytes:
            raise UserError(f"has more than {max_bytes:,} bytes. Make it smaller.")
    return bytes(data)
