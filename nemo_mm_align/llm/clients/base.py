"""What all clients of a service over HTTP share: one attempt per call, and no text with the key leaves it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import SecretStr

from nemo_mm_align.llm.client import check_probabilities
from nemo_mm_align.llm.clients.api_key import checked_for_key, conceal, hide_key
from nemo_mm_align.llm.clients.transport import check_timeout
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.price import PriceSettings, read_price
from nemo_mm_align.llm.question import Answer, Question


class ServiceClient(ABC):
    """A model behind a service.

    A subclass sets `settings` and says how a question becomes a message (`_message`), how a message is sent and its answer
    read (`_send`). What `_send` raises is a `CallFailure`.

    Args:
        name: of the model.
        max_output_tokens: limit of a reply, thinking included.
        timeout_s: seconds after which a call is given up, from connecting to the last byte of the reply.
        key: the API key; None for a service that wants none, and for a client that is asked nothing.
        price: what tokens cost, as `Price` has it, or None.
    """

    most_top_logprobs = 0
    """Alternatives of the first token that the service tells at most."""

    def __init__(
        self, name: str, max_output_tokens: int, timeout_s: float, key: SecretStr | None, price: PriceSettings
    ) -> None:
        self.name, self.max_output_tokens = name, max_output_tokens
        self.price = read_price(price)
        self._timeout_s, self._key = check_timeout(timeout_s), key
        self._local = threading.local()

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Model and decoding, see `LanguageModel`."""

    def ask(self, question: Question) -> Answer:
        """Ask once; raise `CallFailure` of any kind, its texts without the key.

        Raises:
            UserError: the question wants token probabilities, which this service does not give.
        """
        check_probabilities(self, question)
        message = self._message(question)
        return self._guarded(lambda: self._send(message))

    def hide(self, text: str) -> str:
        """Return a text without the key, in whatever spelling it stands there."""
        return hide_key(text, self._key)

    def _secret(self) -> str:
        """The key, for a call to a service that wants one."""
        assert self._key is not None, "a client that was made without a key is asked nothing"
        return self._key.get_secret_value()

    @abstractmethod
    def _message(self, question: Question) -> Any:
        """Return a question in the service's form; raise `CallFailure` (``input``) where an image has gone or changed."""

    @abstractmethod
    def _send(self, message: Any) -> Answer:
        """Make one call."""

    def _guarded(self, answer: Callable[[], Answer]) -> Answer:
        """Return an answer that does not repeat the key; what is raised has it in no text."""
        try:
            return checked_for_key(answer(), self._key)
        except CallFailure as failure:
            raise conceal(failure, self._key) from None

    def _library(self) -> Any:
        """Return this thread's client of the service's library: its connection is not made for several threads."""
        if not hasattr(self._local, "client"):
            self._local.client = self._make_library()
        return self._local.client

    def _make_library(self) -> Any:
        """Return a new client of the service's library, for one thread."""
        raise NotImplementedError
