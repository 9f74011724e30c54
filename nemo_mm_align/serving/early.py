"""What can be known of a server before torch is imported: settings, paths, layout, keys, and whether the port is free."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.packages import installed_version
from nemo_mm_align.core.processes import this_process
from nemo_mm_align.parallel.source import open_source
from nemo_mm_align.serving.keys import read_keys
from nemo_mm_align.serving.offer_checks import check_offer
from nemo_mm_align.serving.scorer_settings import ScorerSettings, scorer_key
from nemo_mm_align.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

_PACKAGES = ("fastapi", "uvicorn", "prometheus-client")


@dataclass(frozen=True)
class CheckedServer:
    """Settings that were checked, and what was read for them.

    Attributes:
        keys: of clients; none: everybody may ask.
        socket: bound to the port, on rank 0 alone.
    """

    settings: ServeSettings
    keys: tuple[str, ...] = field(repr=False)
    socket: socket.socket | None


def check_early(values: Mapping[str, Any]) -> CheckedServer:
    """Read the settings and check all of them that needs no tokenizer and no weight; the port is this process's from then on.

    Args:
        values: ``conf/serve.yaml``, composed, as plain values.

    Raises:
        UserError: what is wrong, with the remedy.
    """
    settings = read(ServeSettings, values)
    _check_packages()
    _check_model(settings)
    if isinstance(settings.scorer, ScorerSettings):
        scorer_key(settings.scorer)
    keys = read_keys(settings.api_key_file, settings.api_key_variable)
    return CheckedServer(settings, keys, bind(settings.host, settings.port) if this_process().rank == 0 else None)


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if installed_version(name) is None]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: not installed, and a server needs this. From a checkout: pip install '.[serve]' -c "
            "constraints.txt, or all of requirements.txt."
        )


def _check_model(settings: ServeSettings) -> None:
    rates = open_source(settings.checkpoint).head is not None
    if rates and (settings.attributes or settings.aliases or settings.scorer):
        raise UserError(
            f"{settings.checkpoint}: rates answers and gives none; attributes, aliases and scorer are of models that answer. "
            "Leave them out."
        )
    check_offer(settings, rates)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has a port, nobody listening yet; raise `UserError` where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"host={host} port={port}: {reason}. Give a port that nobody has (port=0 chooses one) and an address of this machine."
        ) from None
    return bound
