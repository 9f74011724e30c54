"""What a report that is sent to others must not hold: secrets, names of machines and users, paths outside the checkout."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable

from nemo_mm_align.core.processes import node_name
from nemo_mm_align.core.repository import ROOT
from nemo_mm_align.launch.secrets import hide

_PACKAGES = re.compile(r"/[^\s'\"`|:,()]*/(?:site|dist)-packages/")
_PATH = re.compile(r"(?<![\w.\-/~*])/(?!(?:dev|proc|sys)/)(?:[\w.+@\-]+/)+([\w.+@\-]*)")
_SHORT_PATH = re.compile(r"(?<![\w.\-/~*])~/(?:[\w.+@\-]+/)*([\w.+@\-]*)")
_URL = re.compile(r"\b(https?|ftp|ssh|git)://[^\s/'\"`|)]+")
_SAYS_NOTHING = {"localhost", "root", "user", "ubuntu", "nobody", "none"}


def redact(text: str) -> str:
    """Return `text` without them: a path keeps its last part, one of the checkout stays whole, relative to it."""
    text = _URL.sub(r"\1://***", hide(text).replace(f"{ROOT}/", "").replace(str(ROOT), "."))
    text = _PATH.sub(r".../\1", _PACKAGES.sub("", text))
    text = _SHORT_PATH.sub(r".../\1", text)
    for value, shown in _names():
        text = re.sub(rf"(?<![\w]){re.escape(value)}(?![\w])", shown, text)
    return text


def _names() -> Iterable[tuple[str, str]]:
    hosts = {node_name(), socket.gethostname(), *_addresses()}
    hosts |= {name.partition(".")[0] for name in hosts if not name[:1].isdigit()}
    for host in sorted(hosts, key=len, reverse=True):
        if len(host) > 1 and host not in _SAYS_NOTHING:
            yield host, "HOST"
    if (user := _user()) and user not in _SAYS_NOTHING:
        yield user, "USER"


def _addresses() -> set[str]:
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return set()
    return {address for address in found if not address.startswith("127.") and address != "::1"}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user whom the container does not know
        return None
