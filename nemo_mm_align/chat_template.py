"""Chat templates: how a conversation becomes one string, for training, generation and the exported Jinja template.

    system_prefix SYSTEM system_suffix
    user_prefix QUESTION user_suffix  assistant_prefix | answer_prefix ANSWER stop | separator
    user_prefix QUESTION user_suffix  assistant_prefix | ...

The bars enclose an answer's span, the part that is trained on. A generation prompt ends with `assistant_prefix`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.chat_template_jinja import IMAGE_PART, chat_template_jinja
from nemo_mm_align.configuration import read
from nemo_mm_align.records import Turn

__all__ = ["IMAGE_PART", "ChatTemplate"]


class ChatTemplate(BaseModel):
    """The pieces of text around the turns of a conversation (layout in the module's docstring).

    Args:
        name: as in ``conf/template/``; it travels with the checkpoint.
        system: system text where the conversation has no system turn; empty for none.
        stop: text of the special token that ends an answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    system: str = ""
    system_prefix: str = ""
    system_suffix: str = ""
    user_prefix: str
    user_suffix: str
    assistant_prefix: str
    answer_prefix: str = ""
    stop: str
    separator: str = ""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ChatTemplate:
        """Build a template from a mapping (a YAML file's or a checkpoint's); raise `UserError` naming bad fields."""
        return read(cls, config, "template")

    def render(self, turns: Sequence[Turn], add_generation_prompt: bool = False) -> str:
        """Return the conversation as text, ``<image>`` placeholders in it and no bos token.

        Args:
            turns: user and assistant in turns, after an optional system turn that replaces the template's.
            add_generation_prompt: end with `assistant_prefix`, ready for an answer.
        """
        return self.render_spans(turns, add_generation_prompt)[0]

    def render_spans(
        self, turns: Sequence[Turn], add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """Like `render`, with each answer's character span: from behind `assistant_prefix` to behind `stop`."""
        system, body = self._split_system(turns)
        text = self.system_prefix + system + self.system_suffix if system else ""
        spans = []
        for turn in body:
            if turn.role == "user":
                text += self.user_prefix + turn.content + self.user_suffix
                continue
            text += self.assistant_prefix
            start = len(text)
            text += self.answer_prefix + turn.content.strip() + self.stop
            spans.append((start, len(text)))
            text += self.separator
        return text + (self.assistant_prefix if add_generation_prompt else ""), spans

    def _split_system(self, turns: Sequence[Turn]) -> tuple[str, Sequence[Turn]]:
        if turns and turns[0].role == "system":
            return turns[0].content, turns[1:]
        return self.system, turns

    def jinja(self, schema: AttributeSchema | None = None, bos: str = "", ends_with_answer: bool = False) -> str:
        """Return a Hugging Face chat template whose text equals `render`'s, behind `bos`.

        Content is a string or a list of ``{"type": "image"}`` and ``{"type": "text", "text": ...}`` parts. The variable
        ``attributes`` (a mapping, missing names take their defaults) appends the steering line to the last user turn. An
        unknown attribute, a value out of range, an unknown role or type of content raises.

        Args:
            schema: the attribute schema of the model.
            bos: `Encoder.bos_text`; with it ``apply_chat_template(tokenize=True)`` gives the ids of training.
            ends_with_answer: nothing follows the stop token of an answer at the end: for a model that reads it there.
        """
        pieces = {name: getattr(self, name) for name in type(self).model_fields}
        return chat_template_jinja(pieces, schema, bos, ends_with_answer)
