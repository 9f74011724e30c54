"""From the body of a request to what an attribute model is asked: conversations that end with the answer to rate.

Bodies are vLLM's of ``/classify`` and ``/pooling`` (`messages`, or `input` as text or token ids) and NVIDIA NIM's of a reward
model (``/v1/chat/completions`` whose last message is the assistant's). `messages` may be a list of such lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.rows import row_lengths
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.schema.prompts import EncodedSequence
from nemo_mm_align.schema.records import Turn
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.led_rater import Pixels
from nemo_mm_align.serving.messages import Conversation, read_messages
from nemo_mm_align.serving.protocol import check_text, ignored_fields, read_body
from nemo_mm_align.serving.served_model import ServedModel

TokenId = Annotated[int, Field(strict=True, ge=0)]
Text = Annotated[str, Field(strict=True)]


class ClassifyBody(BaseModel):
    """A body of ``/classify``."""

    model: Text | None = None
    messages: Any = None
    input: Text | list[Text] | list[TokenId] | list[list[TokenId]] | None = None
    use_activation: StrictBool | None = None
    add_special_tokens: StrictBool | None = None


class PoolingBody(ClassifyBody):
    """A body of ``/pooling``."""

    task: Literal["classify"] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class ChatRatingBody(BaseModel):
    """A body of ``/v1/chat/completions``; token probabilities are the ratings and always there."""

    model: Text | None = None
    messages: Any = None
    use_activation: StrictBool | None = None
    stream: Literal[False] | None = None
    n: Literal[1] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: int | None = None


@dataclass(frozen=True)
class AskedRatings:
    """What is to be rated.

    Args:
        samples: answers to the same prompt lie in one, so that their prompt is computed once.
        pixels: of all pictures.
        places: of each answer, in the order of the request: its sample, and its sequence there.
        tokens: of all answers with their prompts.
        raw: the head's own outputs are wanted, not the values within the attributes' ranges.
        base64: the values are wanted packed, as little-endian float32.
        ignored: fields that nothing was made of.
    """

    samples: tuple[Sample, ...]
    pixels: Pixels
    places: tuple[tuple[int, int], ...]
    tokens: int
    raw: bool = False
    base64: bool = False
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Answer:
    """One sequence, the names of its pictures, and what tells its prompt from others."""

    sequence: EncodedSequence
    pictures: tuple[str, ...]
    prompt: Any


def read_ratings(
    body: Any, kind: type[ClassifyBody] | type[ChatRatingBody], served: ServedModel, most: int
) -> AskedRatings:
    """Return what a body asks to be rated; pictures are fetched and decoded meanwhile.

    Args:
        most: answers that one request may have; of more, none is read.

    Raises:
        ApiError: whatever is wrong with it.
    """
    if (
        isinstance(body, Mapping) and body.get("add_generation_prompt") is False
    ):  # as vLLM has it where answers are rated
        body = {name: value for name, value in body.items() if name != "add_generation_prompt"}
    asked = read_body(kind, body)
    if asked.model not in (None, served.name):
        raise ApiError(
            404, f"there is no model {asked.model[:100]!r}; this is {served.name}.", "model", "model_not_found"
        )
    texts = asked.input if isinstance(asked, ClassifyBody) else None
    if (texts is None) == (asked.messages is None):
        form = "messages or input, one of them" if isinstance(asked, ClassifyBody) else "messages"
        raise ApiError(400, f"give {form}: conversations that end with the answer to rate.", "messages")
    ignored: tuple[str, ...] = ignored_fields(body, kind)
    pixels: dict[str, Any] = {}
    _check_count(len(_several(asked.messages if texts is None else texts)), most)
    if texts is None:
        conversations = list(_conversations(asked.messages))
        ignored += tuple(dict.fromkeys(name for one in conversations for name in one.ignored))
        answers = [_read(one, served, pixels) for one in conversations]
    else:
        assert isinstance(asked, ClassifyBody)
        answers = [_plain(one, asked.add_special_tokens is not False, served) for one in _several(texts)]
    _check_lengths(answers, served)
    samples, places = _grouped(answers, served.length)
    tokens = sum(len(answer.sequence) for answer in answers)
    packed = isinstance(asked, PoolingBody) and asked.encoding_format == "base64"
    return AskedRatings(samples, pixels, places, tokens, asked.use_activation is False, packed, ignored)


def _conversations(messages: Any) -> Iterator[Conversation]:
    """One list of messages, or several."""
    several = isinstance(messages, list) and bool(messages) and isinstance(messages[0], list)
    for place, one in enumerate(_several(messages)):
        last = one[-1] if isinstance(one, list) and one else None
        try:
            if isinstance(last, Mapping) and last.get("role") in ("user", "system"):
                raise ApiError(
                    400,
                    f"the last message is of the {last['role']}, but this model rates answers and gives none: end with the "
                    "assistant's message that is to be rated.",
                    f"messages[{len(one) - 1}].role",
                )
            yield read_messages(one, "assistant")
        except ApiError as error:
            if not several:
                raise
            where = f"messages[{place}]"
            raise ApiError(error.status, f"{where}: {error.message}", where, error.code) from None


def _read(conversation: Conversation, served: ServedModel, pixels: dict[str, Any]) -> _Answer:
    """The conversation as in training; its pixels are added to `pixels`."""
    limits, turns = served.limits, conversation.turns
    if len(conversation.pictures) > limits.max_images:
        raise ApiError(
            400, f"{len(conversation.pictures)} pictures; at most {limits.max_images} are shown.", "messages"
        )
    _check_size(sum(len(turn.content) for turn in turns), served, "messages")
    sequence = _encoded(turns, served)
    batch, names = served.pictures.batch(conversation.pictures)
    if batch is not None:
        pixels |= {name: batch.pixels_NCHW[place].numpy() for place, name in enumerate(batch.names)}
    return _Answer(sequence, names, (turns[:-1], names))


def _encoded(turns: Sequence[Turn], served: ServedModel) -> EncodedSequence:
    try:
        (sequence,) = served.encoder.encode_answers(turns[:-1], [turns[-1].content], may_be_empty=True)
    except UserError as error:
        raise ApiError(400, str(error), "messages") from None
    return sequence


def _several(given: Any) -> list[Any]:
    """A list of texts, of lists of token ids or of messages, as it is; of a single one, a list of that."""
    return list(given) if isinstance(given, list) and (not given or isinstance(given[0], str | list)) else [given]


def _plain(given: str | list[int], special: bool, served: ServedModel) -> _Answer:
    """Rendered text or token ids as they are; the head reads its last token, or all."""
    encoder = served.encoder
    if isinstance(given, str):
        _check_size(len(given), served, "input")
        ids: list[int] = encoder.tokenizer(check_text(given, "input"), add_special_tokens=special).input_ids
    else:
        ids = given
    if not ids:
        raise ApiError(400, "input is empty: give the rendered conversation with the answer to rate.", "input")
    if max(ids) >= len(encoder.tokenizer):
        raise ApiError(400, f"input: token {max(ids)}, and the tokenizer has {len(encoder.tokenizer)}.", "input")
    if encoder.image_token_id in ids:
        raise ApiError(400, "input cannot show pictures: give messages with image_url.", "input")
    return _Answer(EncodedSequence(list(ids), [False] * (len(ids) - 1) + [True]), (), tuple(ids))


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise ApiError(400, f"{count} answers at once, and room for {most}: ask for fewer in one request.", "messages")


def _check_size(characters: int, served: ServedModel, where: str) -> None:
    if characters > served.limits.max_text_characters:
        raise ApiError(400, f"{characters} characters; at most {served.limits.max_text_characters} are read.", where)


def _check_lengths(answers: Sequence[_Answer], served: ServedModel) -> None:
    if not answers:
        raise ApiError(400, "there is nothing to rate: give at least one conversation.", "messages")
    for place, answer in enumerate(answers):
        if len(answer.sequence) > served.length:
            raise ApiError(
                400,
                f"conversation {place} has {len(answer.sequence)} tokens, pictures included; this model has "
                f"{served.length} positions. Shorten it.",
                "messages",
                "context_length_exceeded",
            )


def _grouped(answers: Sequence[_Answer], length: int) -> tuple[tuple[Sample, ...], tuple[tuple[int, int], ...]]:
    """Put answers to one prompt into one sample, as long as its row has no more than `length` positions."""
    samples, places, open_ones = list[Sample](), list[tuple[int, int]](), dict[Any, int]()
    for answer in answers:
        number = open_ones.get(answer.prompt)
        grown = [*samples[number].sequences, answer.sequence] if number is not None else [answer.sequence]
        images = [Path(name) for name in answer.pictures]
        sample = Sample("" if number is None else samples[number].id, images, grown)
        if number is None or row_lengths(sample, True, last_token=True)[0] > length:
            number = len(samples)
            open_ones[answer.prompt] = number
            samples.append(Sample(str(number), images, [answer.sequence]))
        else:
            samples[number] = sample
        places.append((number, len(samples[number].sequences) - 1))
    return tuple(samples), tuple(places)
