"""The google-generativeai package, and clients made with it."""

from __future__ import annotations

import functools
import threading
import warnings
from types import SimpleNamespace
from typing import Any

from google.protobuf import json_format

from nemo_mm_align.llm.clients.transport import bound, read_environment_once

with warnings.catch_warnings():
    # It says at every start that its successor is google-genai; this is the client that the judge is made for.
    warnings.simplefilter("ignore", FutureWarning)
    import google.generativeai as genai
    from google.ai.generativelanguage_v1beta.services.generative_service.transports import rest_base
    from google.api_core.exceptions import GoogleAPICallError
    from google.generativeai import protos
    from google.generativeai.client import get_default_generative_client

__all__ = ["GoogleAPICallError", "make_client", "protos"]

# The client indents the JSON of its requests, for which Python has no fast encoder: a tenth of what a call costs.
_write_compactly = functools.partial(json_format.MessageToJson, indent=None)
rest_base.json_format = SimpleNamespace(**{**vars(json_format), "MessageToJson": _write_compactly})

# genai.configure sets module-wide state: two judges, or two threads, must not make clients at the same time.
_configure_lock = threading.Lock()


def make_client(key: str, api_endpoint: str | None, timeout_s: float) -> Any:
    """Return a new REST client with a connection of its own, for one thread; its calls are bounded by `transport`."""
    options = {"api_endpoint": api_endpoint} if api_endpoint else None
    with _configure_lock:
        genai.configure(api_key=key, transport="rest", client_options=options)
        client = get_default_generative_client()
    read_environment_once(bound(client.transport._session, timeout_s), client.transport._host)
    return client
