"""Bodies of requests: which fields are understood, what they may hold, and which were passed over.

Fields are OpenAI's (chat completions) and vLLM's additions. JSON's null is an absent field everywhere but in ``attributes``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, field_validator

from nemo_mm_align.core.errors import shorten
from nemo_mm_align.serving.errors import ApiError

MAX_STOPS = 16
"""Texts that end an answer: each is looked for at every token."""
MAX_TOP_LOGPROBS = 20
"""As OpenAI's."""
MAX_NAME = 1000
"""Characters of a model's name, attributes behind it included: every chunk of a stream repeats it."""
NEAR = 0.8
"""Likeness from which a field is taken for a misspelt one."""
MAX_NAMED = 32
"""Ignored fields that a header names."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
AskedName = Annotated[str, Field(strict=True, max_length=MAX_NAME)]
StopText = Annotated[str, Field(strict=True, min_length=1, max_length=1000)]

NO_OPS: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "min_p", "min_tokens", "priority"), (0,)),
    **dict.fromkeys(("repetition_penalty", "length_penalty"), (1,)),
    **dict.fromkeys(("logit_bias", "metadata", "mm_processor_kwargs", "bad_words"), ({}, [])),
    **dict.fromkeys(("tools", "functions", "stop_token_ids", "documents"), ([],)),
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    **dict.fromkeys(("store", "echo", "ignore_eos", "include_stop_str_in_output", "use_beam_search"), (False,)),
    **dict.fromkeys(("skip_special_tokens", "spaces_between_special_tokens", "parallel_tool_calls"), (True,)),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "best_of": (1,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}
"""Values by which fields ask for what is done anyway."""

SILENT = frozenset({"user", "safety_identifier", "prompt_cache_key", "request_id"})
"""Fields that ask for nothing that an answer would show."""


class StreamOptions(BaseModel):
    """How answers are streamed."""

    include_usage: StrictBool | None = None


class ChatBody(BaseModel):
    """A body of ``/v1/chat/completions``, without what others read: messages, attributes, template variables."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: AskedName | None = None
    messages: Any = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = None
    seed: Whole | None = None
    n: Count | None = None
    stop: tuple[StopText, ...] | None = Field(default=None, max_length=MAX_STOPS)
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    attributes: Any = None
    chat_template_kwargs: Any = None
    sweep: Any = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class TokenizeBody(BaseModel):
    """A body of ``/tokenize``."""

    model: Annotated[str, Field(strict=True)] | None = None
    prompt: Annotated[str, Field(strict=True)] | None = None
    messages: Any = None
    attributes: Any = None
    chat_template_kwargs: Any = None
    add_special_tokens: StrictBool | None = None
    return_token_strs: StrictBool | None = None


class DetokenizeBody(BaseModel):
    """A body of ``/detokenize``."""

    model: Annotated[str, Field(strict=True)] | None = None
    tokens: list[Annotated[int, Field(strict=True, ge=0, lt=2**31)]]


Body = TypeVar("Body", bound=BaseModel)


def read_body(kind: type[Body], body: Any) -> Body:
    """Return a body as a `kind`; raise `ApiError` naming the first field that is wrong."""
    if not isinstance(body, Mapping):
        raise ApiError(400, f"the body is no JSON object but {kind_of(body)}.")
    refuse_templates(body)
    try:
        return kind.model_validate({name: body[name] for name in kind.model_fields if name in body})
    except ValidationError as error:
        raise _first(error) from None


def _first(error: ValidationError) -> ApiError:
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = _place(fault["loc"])
    reason = fault["msg"][:1].lower() + fault["msg"][1:]
    return ApiError(400, f"{place}: {reason}.", place)


def _place(parts: tuple[int | str, ...]) -> str:
    """``stop[1]``, ``stream_options.include_usage``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def refuse_templates(body: Mapping[str, Any]) -> None:
    """Raise `ApiError` for a template of the request's own, and for prompts that end otherwise than training's."""
    kwargs = body.get("chat_template_kwargs")
    nested = kwargs if isinstance(kwargs, Mapping) else {}
    for values, prefix in ((body, ""), (nested, "chat_template_kwargs.")):
        for name, fault in _REFUSED.items():
            value = values.get(name)
            if value is not None and not any(_same(value, one) for one in NO_OPS.get(name, ())):
                raise ApiError(400, f"{prefix}{name}: {fault}", f"{prefix}{name}")


_REFUSED = {
    "chat_template": "a request cannot bring a template; the model is asked in the one that it was trained with. Leave it out.",
    "add_generation_prompt": "a prompt ends where the answer begins, always; leave it out or give true.",
    "continue_final_message": "an answer cannot be begun for the model; end with a user message, and leave it out or give false.",
}


def ignored_fields(body: Mapping[str, Any], kind: type[BaseModel]) -> tuple[str, ...]:
    """Return the fields of a body that nothing is made of, unless they ask for what is done anyway.

    Raises:
        ApiError: one that looks like a misspelt ``attributes`` or ``sweep``: nobody would notice that it steers nothing.
    """
    options = body.get("stream_options")
    nested = options if isinstance(options, Mapping) else {}
    found = [name for name in body if name not in kind.model_fields and _asks(name, body[name])]
    for name in found:
        _refuse_misspelt(name)
    return tuple(
        found + [f"stream_options.{name}" for name in nested if name not in StreamOptions.model_fields and nested[name]]
    )


def _asks(name: str, value: Any) -> bool:
    return value is not None and name not in SILENT and not any(_same(value, one) for one in NO_OPS.get(name, ()))


def _same(value: Any, other: Any) -> bool:
    """Equal, where true is not 1; a value that is nested deeply is not compared."""
    if isinstance(other, dict | list):
        return isinstance(value, type(other)) and len(value) == len(other) and _flat(value) == _flat(other)
    return (
        isinstance(value, str | int | float) and isinstance(value, bool) == isinstance(other, bool) and value == other
    )


def _flat(value: dict[str, Any] | list[Any]) -> list[tuple[Any, str]]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    return [(key, item if isinstance(item, str) else kind_of(item)) for key, item in items]


def _refuse_misspelt(name: str) -> None:
    near = difflib.get_close_matches(name[:40], ("attributes", "sweep", "chat_template_kwargs"), 1, NEAR)
    if near:
        raise ApiError(400, f"{shorten(name, 40)}: there is no such field. Did you mean {near[0]}?", shorten(name, 40))


def header_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names as a header can hold them: few, short and plain."""
    plain = [re.sub(r"[^A-Za-z0-9_.\-]", "?", name[:64]) for name in names[:MAX_NAMED]]
    return (*plain, "...") if len(names) > MAX_NAMED else tuple(plain)


def kind_of(value: Any) -> str:
    """What JSON calls a value's type, for messages."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def check_text(text: str, where: str) -> str:
    """Return a text; raise `ApiError` where it holds half a character (a lone surrogate), which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError(
            400, f"{where}: character {error.start} is a lone surrogate, half of a character. Remove it.", where
        ) from None
    return text
