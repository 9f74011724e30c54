"""Which attributes a request asks for: numbers or words, over the alias that it names, the server's defaults, the schema's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.core.errors import UserError, shorten, suggestion
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.level_words import value_of
from nemo_mm_align.serving.protocol import NO_OPS, kind_of

KEYWORD_NO_OPS = frozenset(
    {"enable_thinking", "thinking", "thinking_budget", "reasoning_effort", "tools_in_user_message", "date_string"}
    | {"add_vision_id", "add_generation_prompt", "continue_final_message", "builtin_tools"}
)
"""Variables of other models' templates that clients send to all models alike."""

_ABSENT = object()


def what_can_be_asked(schema: AttributeSchema) -> str:
    """All attributes with their ranges, in a sentence."""
    ranges = (
        f"{item.name} {item.minimum:g} to {item.maximum:g}{'' if item.integer else ', fractions too'}"
        for item in schema.asked
    )
    return f"This model can be asked for {'; '.join(ranges)}."


def check_some(schema: AttributeSchema | None, values: Any, where: str) -> dict[str, float]:
    """Return values of some attributes as numbers.

    Args:
        where: they stand, for messages.

    Raises:
        ApiError: unknown names, values out of range, or a model that cannot be asked; the message lists what can be.
    """
    if schema is None:
        raise ApiError(400, f"{where}: this model was trained without attributes; leave it out.", where)
    if not isinstance(values, Mapping):
        example = f'{{"{schema.asked[0].name}": {schema.asked[0].default:g}}}'
        raise ApiError(400, f"{where} is {kind_of(values)}; give an object as {example}, or null.", where)
    known = {item.name: item for item in schema.asked}
    found = dict[str, float]()
    for name, value in values.items():
        if name not in known:
            near = suggestion(str(name)[:40], known).split(" Known")[0]
            raise ApiError(
                400, f"{where}: unknown attribute {shorten(str(name), 40)!r}.{near} {what_can_be_asked(schema)}", where
            )
        try:
            found[name] = value_of(known[name], value)
        except UserError as error:
            raise ApiError(400, f"{where}: {error}", where) from None
    return found


def given_attributes(body: Mapping[str, Any]) -> tuple[bool, Any]:
    """Return whether a body says something of attributes, and what; ``chat_template_kwargs`` may say it too.

    Raises:
        ApiError: both do and differ, or a template variable that this model does not know.
    """
    kwargs = body.get("chat_template_kwargs")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ApiError(400, f"chat_template_kwargs is {kind_of(kwargs)}; give an object.", "chat_template_kwargs")
    _refuse_unknown(kwargs or {})
    places = [values.get("attributes", _ABSENT) for values in (body, kwargs or {})]
    said = [value for value in places if value is not _ABSENT]
    if len(said) == 2 and not _alike(*said):
        raise ApiError(
            400,
            "attributes and chat_template_kwargs.attributes differ; give one of them.",
            "chat_template_kwargs.attributes",
        )
    return bool(said), said[0] if said else None


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        plain = all(isinstance(value, str | int | float | None) for value in (*one.values(), *other.values()))
        return plain and dict(one) == dict(other)
    return one is None and other is None


def _refuse_unknown(kwargs: Mapping[str, Any]) -> None:
    for name in kwargs:
        if name not in ("attributes", "chat_template", *KEYWORD_NO_OPS):
            near = suggestion(str(name)[:40], ["attributes"]).split(" Known")[0]
            raise ApiError(
                400,
                f"chat_template_kwargs.{shorten(str(name), 40)}: the template has no such variable, so it would change nothing."
                f"{near} It knows attributes.",
                "chat_template_kwargs",
            )


def ignored_keywords(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the template variables that nothing is made of, as ``chat_template_kwargs.NAME``."""
    kwargs = body.get("chat_template_kwargs") or {}
    named = (name for name, value in kwargs.items() if name in KEYWORD_NO_OPS - NO_OPS.keys() and value is not None)
    return tuple(f"chat_template_kwargs.{name}" for name in named)


def asked_of(
    body: Mapping[str, Any],
    schema: AttributeSchema | None,
    base: Mapping[str, float] | None,
    defaults: Mapping[str, float],
) -> dict[str, float] | None:
    """Return what a request asks for, complete in schema order; None: nothing.

    Args:
        body: of the request.
        schema: of the model.
        base: what is asked where the body says nothing; its values hold too where the body names some attributes only.
        defaults: likewise, where `base` is None.

    Raises:
        ApiError: what cannot be asked.
    """
    given, values = given_attributes(body)
    if not given:
        return None if base is None else dict(base)
    if values is None:
        return None
    return {**(defaults if base is None else base), **check_some(schema, values, "attributes")}
