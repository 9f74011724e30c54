"""``/tokenize`` and ``/detokenize``, with vLLM's bodies and replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.serving.asked_attributes import asked_of
from nemo_mm_align.serving.chat_request import checked_messages, encode
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.protocol import DetokenizeBody, TokenizeBody, check_text, read_body
from nemo_mm_align.serving.served_model import ServedModel


def tokenize(body: Mapping[str, Any], served: ServedModel) -> dict[str, Any]:
    """Return ``{"count", "max_model_len", "tokens", "token_strs"}`` of a body with ``messages`` or ``prompt``.

    Messages become the prompt that a chat request would have, attributes and image tokens in it; the pictures themselves are not
    looked at. The text of ``prompt`` stands as it is, special tokens are read as such.

    Raises:
        ApiError: whatever is wrong with it.
    """
    asked = read_body(TokenizeBody, body)
    base = served.base_of(asked.model)
    if (asked.prompt is None) == (asked.messages is None):
        raise ApiError(400, "give either messages or prompt.", "messages")
    if asked.prompt is None:
        attributes = asked_of(body, served.schema, base, served.defaults)
        ids = encode(checked_messages(asked.messages, served), attributes, served).ids
    else:
        ids = _plain(asked.prompt, asked.add_special_tokens is not False, served)
    strings = served.encoder.tokenizer.convert_ids_to_tokens(ids) if asked.return_token_strs else None
    return {"count": len(ids), "max_model_len": served.length, "tokens": ids, "token_strs": strings}


def _plain(text: str, special: bool, served: ServedModel) -> list[int]:
    if len(text) > served.limits.max_text_characters:
        raise ApiError(400, f"prompt: at most {served.limits.max_text_characters:,} characters are read.", "prompt")
    tokenizer = served.encoder.tokenizer
    ids = tokenizer(check_text(text, "prompt"), add_special_tokens=special, verbose=False).input_ids
    return [int(token) for token in ids]


def detokenize(body: Mapping[str, Any], served: ServedModel) -> dict[str, Any]:
    """Return ``{"prompt"}``, the text of a body's ``tokens``, special tokens included.

    Raises:
        ApiError: whatever is wrong with it.
    """
    asked = read_body(DetokenizeBody, body)
    served.base_of(asked.model)
    known = len(served.encoder.tokenizer)
    for place, token in enumerate(asked.tokens):
        if token >= known:
            raise ApiError(400, f"tokens[{place}]={token}: the tokenizer knows 0 to {known - 1}.", f"tokens[{place}]")
    return {"prompt": served.encoder.tokenizer.decode(asked.tokens, clean_up_tokenization_spaces=False)}
