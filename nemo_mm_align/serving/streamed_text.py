"""The text of an answer on its way to a client: never more than the whole answer will begin with."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence

from nemo_mm_align.inference.growing_text import Decode, GrowingText

logger = logging.getLogger(__name__)


class StreamedText:
    """Text of one answer, piece by piece.

    An answer is told without white space at its ends, and ends before a stop text. So white space is held back until something
    follows it, and what may still become a stop text until it does or does not.

    Args:
        decode: of the model's tokenizer, see `GrowingText`.
        stop: texts that end the answer.

    Attributes:
        sent: all pieces so far.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._growing, self._stop, self._ids = GrowingText(decode), tuple(stop), list[int]()
        self._ends = list[int]()  # of each token's text, for those of which it is known
        self.sent = ""

    @property
    def tokens_sent(self) -> int:
        """How many tokens' texts lie wholly within what is sent; the last ones without any text do not count so far."""
        text = self._growing.text
        return bisect_right(self._ends, len(text) - len(text.lstrip()) + len(self.sent)) if self.sent else 0

    def add(self, token: int) -> str:
        """Return what can be sent once a token is known with which the answer does not end; "" where that is nothing."""
        self._ids.append(token)
        grown = self._growing.grow(self._ids)
        text = self._growing.text
        if grown:  # with the text of the tokens before it that had to wait
            self._ends += [len(text)] * (len(self._ids) - len(self._ends))
        return self._send(text[: len(text) - begun(text, self._stop)].strip())

    def end(self, text: str) -> str:
        """Return what is left to be sent of an answer that has ended.

        Args:
            text: all of it.
        """
        if not text.startswith(self.sent):  # a tokenizer whose words change with what follows them
            logger.warning("%d characters of an answer were streamed that it does not begin with", len(self.sent))
            return ""
        return self._send(text)

    def _send(self, text: str) -> str:
        new = text[len(self.sent) :]
        self.sent = text if new else self.sent
        return new


def begun(text: str, stop: Sequence[str]) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop text."""
    longest = max(map(len, stop), default=0) - 1
    sizes = range(min(longest, len(text)), 0, -1)
    firsts = {
        one[0] for one in stop
    }  # looked at first: this is asked at every token, of texts of up to 1,000 characters
    return next(
        (size for size in sizes if text[-size] in firsts and any(one.startswith(text[-size:]) for one in stop)), 0
    )
