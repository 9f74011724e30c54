"""Addresses of services as settings give them: whole, and without secrets, since they stand in messages."""

from __future__ import annotations

from urllib.parse import urlsplit

from nemo_mm_align.core.errors import UserError


def check_address(address: str, setting: str) -> str:
    """Return an address without a slash at its end; raise `UserError` where it is none, or holds what belongs elsewhere.

    Args:
        setting: its name, for messages.
    """
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query:
        raise UserError(f"{setting} holds a user, a password or a query; keys come from judge.api_key_variable.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{setting}={address!r} is no address; write for example http://127.0.0.1:8000/v1.")
    return address.rstrip("/")
