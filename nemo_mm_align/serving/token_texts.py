"""What single tokens say, in text and in bytes: OpenAI's form of log-probabilities names both."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nemo_mm_align.inference.rows import TokenLogprobs
from nemo_mm_align.serving.errors import ApiError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IMPOSSIBLE = -9999.0
"""The log-probability of a token that the model rules out: JSON has no infinity. OpenAI's and vLLM's is the same."""

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_WORD_BEGINS = "\u2581"


class TokenTexts:
    """Bytes of each token, such that those of an answer, one after the other, are its text.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        decoder = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder")
        kinds = set(_kinds(decoder))
        self._alphabet = _byte_alphabet() if "ByteLevel" in kinds else None
        self._has_bytes, self._words = "ByteFallback" in kinds, "WordPiece" in kinds
        self._added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """Return what a token adds to a text."""
        if token not in self._known:
            self._known[token] = self._find(token)
        return self._known[token]

    def _find(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece = str(self._tokenizer.convert_ids_to_tokens(token) or "")
        if self._alphabet is not None and all(character in self._alphabet for character in piece):
            return bytes(self._alphabet[character] for character in piece)
        alone = _BYTE.fullmatch(piece) if self._has_bytes else None
        if alone:
            return bytes([int(alone[1], 16)])
        if self._words:
            return (piece[2:] if piece.startswith("##") else f" {piece}").encode()
        return piece.replace(_WORD_BEGINS, " ").encode()

    def logprobs(self, tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """Return the ``logprobs`` of a choice.

        Raises:
            ApiError: the model gave no numbers.
        """
        content = [
            {**self._one(token.token, token.logprob), "top_logprobs": [self._one(*other) for other in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        said = self.bytes_of(token)
        return {"token": said.decode("utf-8", "replace"), "logprob": _in_json(logprob), "bytes": list(said)}


def _in_json(logprob: float) -> float:
    if math.isnan(logprob):
        text = "the model gave NaN for a log-probability: its weights are damaged, or precision= is too low for them"
        raise ApiError(500, text, code="no_finite_numbers")
    return logprob if math.isfinite(logprob) else IMPOSSIBLE


def _kinds(decoder: Any) -> Iterator[str]:
    """Names of a decoder and of those that it is made of."""
    if isinstance(decoder, dict):
        yield str(decoder.get("type"))
        for part in decoder.get("decoders", ()):
            yield from _kinds(part)


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers write bytes: printable ones of Latin-1 as they are, others from 256 on.

    Source: ``bytes_to_unicode`` of GPT-2's encoder.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
