"""From the body of a chat request to what the engine is asked for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.rows import DecodingRequest
from nemo_mm_align.inference.sampling_settings import LEAST_TEMPERATURE, SamplingSettings
from nemo_mm_align.serving.asked_attributes import asked_of, given_attributes, ignored_keywords
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.messages import Conversation, read_messages
from nemo_mm_align.serving.protocol import ChatBody, header_names, ignored_fields, read_body
from nemo_mm_align.serving.served_model import ServedModel
from nemo_mm_align.serving.sweeps import sweep_of

SEED_BITS = 63
"""Of seeds for requests that bring none."""


@dataclass(frozen=True)
class AskedChat:
    """A chat request, read and checked.

    Args:
        requests: one; of a sweep, one for each assignment. All have the same number of answers (`num_samples`).
        images: of each of them, the same.
        attributes: what each of `requests` asks for, complete; None: nothing.
        model: as the client named it; the served name where it named none.
        stream, include_usage: how answers are to be sent.
        ignored: fields that nothing was made of, fit for a header.
        copies: choices that each answer is: n where the most probable token is taken, since n answers would be equal.
    """

    requests: tuple[DecodingRequest, ...]
    images: ImageBatch | None
    attributes: tuple[dict[str, float] | None, ...]
    model: str
    stream: bool = False
    include_usage: bool = False
    ignored: tuple[str, ...] = ()
    copies: int = 1

    @property
    def num_choices(self) -> int:
        """Of the whole response."""
        return len(self.requests) * self.requests[0].sampling.num_samples * self.copies

    def choices(self, request: int, sample: int) -> range:
        """Return the indices of the choices that an answer becomes: those of the first request come first.

        Args:
            request: place in `requests`.
            sample: which of its answers.
        """
        first = (request * self.requests[0].sampling.num_samples + sample) * self.copies
        return range(first, first + self.copies)


def read_chat(body: Mapping[str, Any], served: ServedModel) -> AskedChat:
    """Return what a body of ``/v1/chat/completions`` asks for; pictures are fetched and decoded meanwhile.

    Raises:
        ApiError: whatever is wrong with it.
    """
    chat = read_body(ChatBody, body)
    ignored = ignored_fields(body, ChatBody)
    attributes = assignments(body, chat, served)
    sampling, copies = _sampling(chat, served, len(attributes))
    conversation = checked_messages(chat.messages, served)
    prompts = [encode(conversation, asked, served) for asked in attributes]
    limit = _answer_limit(chat, served, max(len(prompt.ids) for prompt in prompts))
    images, pictures = served.pictures.batch(conversation.pictures)
    sampling = replace(sampling, max_new_tokens=limit)
    return AskedChat(
        tuple(DecodingRequest(prompt, sampling, served.stop_ids, pictures, _logprobs(chat)) for prompt in prompts),
        images,
        tuple(attributes),
        chat.model or served.name,
        bool(chat.stream),
        _include_usage(chat),
        header_names((*ignored, *ignored_keywords(body), *conversation.ignored)),
        copies,
    )


def assignments(body: Mapping[str, Any], chat: ChatBody, served: ServedModel) -> list[dict[str, float] | None]:
    """Return what is asked for: one assignment, or those of a sweep."""
    base = served.base_of(chat.model)
    asked = asked_of(body, served.schema, base, served.defaults)
    if chat.sweep is None:
        return [asked]
    start = served.defaults if asked is None and not given_attributes(body)[0] else asked
    return list(sweep_of(served.schema, chat.sweep, start, served.limits.max_choices))


def checked_messages(messages: Any, served: ServedModel) -> Conversation:
    """Return the messages of a request, within its limits."""
    conversation = read_messages(messages)
    characters, limits = sum(len(turn.content) for turn in conversation.turns), served.limits
    if characters > limits.max_text_characters:
        raise ApiError(
            400,
            f"messages hold {characters:,} characters; at most {limits.max_text_characters:,} are read. Shorten them.",
            "messages",
            "context_length_exceeded",
        )
    if len(conversation.pictures) > limits.max_images:
        raise ApiError(
            400,
            f"messages hold {len(conversation.pictures)} pictures; at most {limits.max_images} are read. Leave some out.",
            "messages",
        )
    return conversation


def encode(conversation: Conversation, asked: dict[str, float] | None, served: ServedModel) -> EncodedPrompt:
    """Return the prompt as training would have it. Its id is empty, so that an answer depends on its seed alone.

    Raises:
        ApiError: it holds special tokens.
    """
    encoder = served.encoder
    try:
        ids = encoder.encode_prompt(conversation.turns, asked, may_be_empty=True)
    except UserError as error:
        raise ApiError(400, f"messages: {error}", "messages") from None
    if ids.count(encoder.image_token_id) != len(conversation.pictures) * encoder.tokens_per_image:
        raise ApiError(400, "messages hold text that the tokenizer takes for a picture; remove it.", "messages")
    return EncodedPrompt("", ids)


def _sampling(chat: ChatBody, served: ServedModel, assignments: int) -> tuple[SamplingSettings, int]:
    """Settings but for the answers' length, and how many choices each answer is."""
    default, n = served.sampling, chat.n or 1
    _check_choices(n, assignments, served)
    temperature = default.temperature if chat.temperature is None else chat.temperature
    top_p = default.top_p if chat.top_p is None else chat.top_p
    greedy = temperature < LEAST_TEMPERATURE or top_p == 0
    if not greedy and n > served.slots:
        raise ApiError(400, f"n={n}: at most {served.slots} answers of a prompt are made at once.", "n")
    settings = SamplingSettings(
        temperature=0.0 if greedy else temperature,
        top_p=top_p or 1.0,
        top_k=default.top_k if chat.top_k is None else max(chat.top_k, 0),
        num_samples=1 if greedy else n,
        seed=secrets.randbits(SEED_BITS) if chat.seed is None else chat.seed,
        stop=default.stop if chat.stop is None else chat.stop,
    )
    return settings, n if greedy else 1


def _check_choices(n: int, assignments: int, served: ServedModel) -> None:
    most = served.limits.max_choices
    if n * assignments > most:
        what = f"n={n}" if assignments == 1 else f"n={n} and {assignments} assignments of the sweep"
        raise ApiError(400, f"{what}: at most {most} answers are given to one request.", "n")


def _answer_limit(chat: ChatBody, served: ServedModel, prompt: int) -> int:
    """Tokens that an answer may have.

    Raises:
        ApiError: two limits that differ, or no room.
    """
    given = {value for value in (chat.max_tokens, chat.max_completion_tokens) if value is not None}
    if len(given) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give one of them.", "max_completion_tokens")
    room = served.length - prompt
    wanted = given.pop() if given else None
    if room < (wanted or 1):
        name = "max_tokens" if chat.max_tokens is not None else "max_completion_tokens"
        asked = f" and {name}={wanted}" if wanted is not None else ""
        raise ApiError(
            400,
            f"This model's maximum context length is {served.length} tokens. The messages take {prompt}{asked}: shorten the "
            f"messages, show fewer pictures{f', or lower {name}' if wanted is not None else ''}.",
            "messages",
            "context_length_exceeded",
        )
    return min(served.sampling.max_new_tokens, room) if wanted is None else wanted


def _logprobs(chat: ChatBody) -> int | None:
    if chat.top_logprobs and not chat.logprobs:
        raise ApiError(400, "top_logprobs is given without logprobs: true; give both.", "top_logprobs")
    return (chat.top_logprobs or 0) if chat.logprobs else None


def _include_usage(chat: ChatBody) -> bool:
    if chat.stream_options is not None and not chat.stream:
        raise ApiError(400, "stream_options is given without stream: true; give both or none.", "stream_options")
    return bool(chat.stream_options and chat.stream_options.include_usage)
