"""The text of an answer as its tokens come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""Token ids to text as it stands, not stripped."""

_UNFINISHED = "\ufffd"
"""What a character becomes of which the last bytes are still to come."""


class GrowingText:
    """Text that only grows: what the next token might still change is held back.

    A token's text depends on those before it (white space, characters of several tokens), and a tail that begins within a
    character decodes to something else. So each token is decoded together with the ones before it, from a place where the
    text was whole, and the text of these is taken away.

    Args:
        decode: of the model's tokenizer.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self.text = ""
        self._known, self._shown = 0, 0  # tokens that give the context; tokens whose text is in `text`

    def grow(self, ids: Sequence[int]) -> str:
        """Return what has become of the text with the newest of `ids`, all tokens so far; "" where that is not known yet."""
        tail = self._decode(ids[self._known :])
        if tail.endswith(_UNFINISHED):
            return ""
        new = tail[len(self._decode(ids[self._known : self._shown])) :]
        if not new:
            return ""  # a token without text, as special ones are, gives the next one no context
        self._known, self._shown = self._shown, len(ids)
        self.text += new
        return new


class StopTexts:
    """Looks for texts that end an answer.

    Args:
        texts: none of them empty.
        decode: see `GrowingText`.
    """

    def __init__(self, texts: Sequence[str], decode: Decode) -> None:
        self._texts, self._longest = texts, max(map(len, texts))
        self._growing = GrowingText(decode)

    def before(self, ids: Sequence[int]) -> str | None:
        """Return the text before the first stop text, None where the newest token completes none."""
        new = self._growing.grow(ids)
        text = self._growing.text
        start = max(0, len(text) - len(new) - self._longest + 1)
        places = [place for stop in self._texts if (place := text.find(stop, start)) >= 0]
        return text[: min(places)] if places else None
