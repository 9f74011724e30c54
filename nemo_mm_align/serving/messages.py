"""Messages in OpenAI's form as turns, so that rendering gives what training gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from nemo_mm_align.core.errors import shorten
from nemo_mm_align.schema.chat_template import IMAGE_PART
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Turn
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.pictures import PictureSource
from nemo_mm_align.serving.protocol import check_text, kind_of

Role = Literal["system", "user", "assistant"]

_ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_PARTS = ("text", "input_text", "output_text")
_IMAGE_PARTS = ("image_url", "input_image", "image")


@dataclass(frozen=True)
class Conversation:
    """Turns with ``<image>`` where pictures stand, and these in order.

    Args:
        ignored: fields of messages that nothing was made of, as ``messages.name``.
    """

    turns: tuple[Turn, ...]
    pictures: tuple[PictureSource, ...]
    ignored: tuple[str, ...] = ()


def read_messages(messages: Any, last_speaker: Literal["user", "assistant"] = "user") -> Conversation:
    """Return what the messages of a body say.

    An image part is a placeholder and a line break, as in training; texts stand as they are, with nothing between parts.

    Args:
        messages: of the body, as it came.
        last_speaker: who must have spoken last.

    Raises:
        ApiError: they are not what a model can be shown; the message says which one, and what to do.
    """
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: give a list of at least one message.", "messages")
    turns, pictures, ignored = list[Turn](), list[PictureSource](), dict[str, None]()
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        role = _role(message, where)
        content, shown = _content(message.get("content"), role, where)
        turns.append(Turn(role=role, content=content))
        pictures += shown
        ignored |= dict.fromkeys(f"messages.{name}" for name, value in message.items() if _means(name, value))
    _check_order([turn.role for turn in turns], last_speaker)
    return Conversation(tuple(turns), tuple(pictures), tuple(ignored))


def _means(name: str, value: Any) -> bool:
    """Whether a message's field says something that nothing is made of."""
    return name not in ("role", "content") and value not in (None, "", [], {})


def _role(message: Any, where: str) -> Role:
    if not isinstance(message, Mapping):
        raise ApiError(400, f"{where}: a message is an object of role and content, not {kind_of(message)}.", where)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        shown = repr(shorten(role, 40)) if isinstance(role, str) else kind_of(role)
        raise ApiError(
            400, f"{where}.role is {shown}; this model knows {', '.join(_ROLES)} (as system).", f"{where}.role"
        )
    return _ROLES[role]


def _check_order(roles: Sequence[Role], last_speaker: str) -> None:
    first = 1 if roles[0] == "system" else 0
    for place, role in enumerate(roles[first:], start=first):
        due = "assistant" if (place - first) % 2 else "user"
        if role != due:
            raise ApiError(
                400,
                f"messages[{place}] is of the {role} where one of the {due} is due: after at most one system message, user and "
                "assistant take turns, as in training. Join messages of one speaker, or leave some out.",
                f"messages[{place}].role",
            )
    if roles[-1] != last_speaker:
        raise ApiError(400, f"messages must end with one of the {last_speaker}, not of the {roles[-1]}.", "messages")


def _content(content: Any, role: Role, where: str) -> tuple[str, list[PictureSource]]:
    """Text with placeholders, and what stands in their places."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ApiError(400, f"{where}.content is {kind_of(content)}; give a text or a list of parts.", where)
    text, pictures = "", list[PictureSource]()
    for place, part in enumerate(content):
        found = _part(part, role, f"{where}.content[{place}]")
        text += found if isinstance(found, str) else IMAGE_PART
        pictures += [] if isinstance(found, str) else [found]
    if text.count(IMAGE_PLACEHOLDER) != len(pictures):
        raise ApiError(
            400,
            f"{where} contains {IMAGE_PLACEHOLDER} as text, which stands for a picture; remove it, and give pictures as parts of "
            "type image_url.",
            f"{where}.content",
        )
    return check_text(text, f"{where}.content"), pictures


def _part(part: Any, role: Role, where: str) -> str | PictureSource:
    if not isinstance(part, Mapping):
        raise ApiError(400, f"{where}: a part is an object with a type, not {kind_of(part)}.", where)
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXT_PARTS:
        if not isinstance(part.get("text"), str):
            raise ApiError(400, f"{where}.text is {kind_of(part.get('text'))}; give a text.", f"{where}.text")
        return cast(str, part["text"])
    if not isinstance(kind, str) or kind not in _IMAGE_PARTS:
        shown = repr(shorten(kind, 40)) if isinstance(kind, str) else kind_of(kind)
        raise ApiError(400, f"{where}.type is {shown}; this model takes text and image_url.", f"{where}.type")
    if role != "user":
        raise ApiError(400, f"{where}: a picture may only stand in a user message, not in one of the {role}.", where)
    return PictureSource(_url(part, where), where)


def _url(part: Mapping[str, Any], where: str) -> str:
    """``image_url`` as an object or a text, ``image`` or ``url``; ``detail`` makes no difference."""
    value = next((part[name] for name in ("image_url", "image", "url") if part.get(name) is not None), None)
    if isinstance(value, Mapping):
        value = value.get("url")
    if not isinstance(value, str):
        raise ApiError(
            400,
            f'{where}: there is no picture; write {{"type": "image_url", "image_url": {{"url": "data:image/png;base64,..."}}}}.',
            where,
        )
    return value
