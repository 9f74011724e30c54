"""Names of machines as they stand in addresses and Host headers."""

from __future__ import annotations

from ipaddress import ip_address

LOCAL_NAME = "localhost"


def host_name(given: str) -> str:
    """Return the name or address of a Host header, in small letters, without port and brackets."""
    name, colon, port = given.strip().lower().rpartition(":")
    if not colon or not (port.isdecimal() or not port) or (":" in name and not name.endswith("]")):
        name = given.strip().lower()
    return name.removeprefix("[").removesuffix("]").removesuffix(".")


def is_own(name: str) -> bool:
    """Whether a name is one of this machine for itself: no page of another can have it."""
    if name == LOCAL_NAME or name.endswith(f".{LOCAL_NAME}"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
