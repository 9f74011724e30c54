"""Chat templates: how a conversation becomes one string, for training, generation and the exported Jinja template.

    system_prefix SYSTEM system_suffix
    user_prefix QUESTION user_suffix  assistant_prefix | answer_prefix ANSWER answer_suffix stop | separator
    later_user_prefix QUESTION user_suffix  assistant_prefix | ...

The bars enclose an answer's span, the part that is trained on. A generation prompt ends with `assistant_prefix`.

Attributes that are asked for are a line of the last question, ``QUESTION\nLINE``, or, where `attributes_prefix` is set, stand
before the last answer, untrained: ``assistant_prefix attributes_prefix name:value,name:value attributes_suffix |``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template_jinja import IMAGE_PART, chat_template_jinja
from nemo_mm_align.schema.records import Turn

__all__ = ["IMAGE_PART", "ChatTemplate", "with_attributes"]

_SELDOM = ("later_user_prefix", "attributes_prefix", "attributes_suffix", "answer_suffix")


def with_attributes(turns: Sequence[Turn], schema: AttributeSchema, values: Mapping[str, Any]) -> list[Turn]:
    """Append a newline and the steering line of `values` to the last user turn.

    Args:
        values: one for each attribute that the schema asks for; `AttributeSchema.complete` fills in defaults.

    Raises:
        UserError: values that the schema does not allow, or no user turn.
    """
    line = schema.steering_line(values)
    for index in reversed(range(len(turns))):
        if turns[index].role == "user":
            turn = Turn(role="user", content=f"{turns[index].content}\n{line}")
            return [*turns[:index], turn, *turns[index + 1 :]]
    raise UserError("attributes need a user turn to be appended to; the conversation has none.")


class ChatTemplate(BaseModel):
    """The pieces of text around the turns of a conversation (layout in the module's docstring).

    Args:
        name: as in ``conf/template/``; it travels with the checkpoint.
        system: system text where the conversation has no system turn; empty for none.
        stop: text of the special token that ends an answer.
        later_user_prefix: in place of `user_prefix` for questions behind an answer; None for the same.
        attributes_prefix, attributes_suffix: around attribute values that stand before the answer, named as in the schema;
            None: they are a line of the question.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    system: str = ""
    system_prefix: str = ""
    system_suffix: str = ""
    user_prefix: str
    later_user_prefix: str | None = None
    user_suffix: str
    assistant_prefix: str
    attributes_prefix: str | None = None
    attributes_suffix: str = ""
    answer_prefix: str = ""
    answer_suffix: str = ""
    stop: str
    separator: str = ""

    @model_serializer(mode="wrap")
    def _without_what_few_have(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out pieces that are not set: templates are compared, and older checkpoints had no such fields."""
        values: dict[str, Any] = serialize(self)
        defaults = {name: type(self).model_fields[name].default for name in _SELDOM}
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ChatTemplate:
        """Build a template from a mapping (a YAML file's or a checkpoint's); raise `UserError` naming bad fields."""
        return read(cls, config, "template")

    def render(self, turns: Sequence[Turn], add_generation_prompt: bool = False, asked: str = "") -> str:
        """Return the conversation as text, ``<image>`` placeholders in it and no bos token.

        Args:
            turns: user and assistant in turns, after an optional system turn that replaces the template's.
            add_generation_prompt: end with `assistant_prefix`, ready for an answer.
            asked: what `ask` gave to stand before the last answer.
        """
        return self.render_spans(turns, add_generation_prompt, asked)[0]

    def render_spans(
        self, turns: Sequence[Turn], add_generation_prompt: bool = False, asked: str = ""
    ) -> tuple[str, list[tuple[int, int]]]:
        """Like `render`, with each answer's character span: from behind `assistant_prefix` and `asked` to behind `stop`."""
        system, body = self._split_system(turns)
        text = self.system_prefix + system + self.system_suffix if system else ""
        spans: list[tuple[int, int]] = []
        for place, turn in enumerate(body):
            if turn.role == "user":
                text += self._user_prefix(place) + turn.content + self.user_suffix
                continue
            last = place == len(body) - 1 and not add_generation_prompt
            text += self.assistant_prefix + (asked if last else "")
            start = len(text)
            text += self.answer_prefix + turn.content.strip() + self.answer_suffix + self.stop
            spans.append((start, len(text)))
            text += self.separator
        return text + (self.assistant_prefix + asked if add_generation_prompt else ""), spans

    def _user_prefix(self, place: int) -> str:
        """What stands before the question at a place behind the system turn."""
        return self.user_prefix if place == 0 or self.later_user_prefix is None else self.later_user_prefix

    def ask(self, turns: Sequence[Turn], schema: AttributeSchema, values: Mapping[str, Any]) -> tuple[list[Turn], str]:
        """Return the turns that ask for attributes, and what stands before the answer, for `render`; one holds the values.

        Args:
            values: one for each attribute that the schema asks for; `AttributeSchema.complete` fills in defaults.

        Raises:
            UserError: values that the schema does not allow, or no user turn.
        """
        if self.attributes_prefix is None:
            return with_attributes(turns, schema, values), ""
        return list(turns), self.attributes_prefix + schema.label_string(values) + self.attributes_suffix

    def _split_system(self, turns: Sequence[Turn]) -> tuple[str, Sequence[Turn]]:
        if turns and turns[0].role == "system":
            return turns[0].content, turns[1:]
        return self.system, turns

    def jinja(self, schema: AttributeSchema | None = None, bos: str = "", ends_with_answer: bool = False) -> str:
        """Return a Hugging Face chat template whose text equals `render`'s, behind `bos`.

        Content is a string or a list of ``{"type": "image"}`` and ``{"type": "text", "text": ...}`` parts. The variable
        ``attributes`` (a mapping, missing names take their defaults) asks for attributes as `ask` does. An unknown
        attribute, a value out of range, an unknown role or type of content raises.

        Args:
            schema: the attribute schema of the model.
            bos: `Encoder.bos_text`; with it ``apply_chat_template(tokenize=True)`` gives the ids of training.
            ends_with_answer: nothing follows the stop token of an answer at the end: for a model that reads it there.
        """
        pieces = {name: getattr(self, name) for name in type(self).model_fields}
        return chat_template_jinja(pieces, schema, bos, ends_with_answer)
