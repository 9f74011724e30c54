"""LLaVA's conversations, above all the 665k mixture of visual instruction tuning.

Fields as LLaVA's documentation shows them (haotian-liu/LLaVA at c121f04, ``docs/Finetune_Custom_Data.md``): a JSON list of
``{id, image, conversations: [{from: human | gpt, value}]}``; text alone has no `image`. In ``llava_v1_5_mix665k.json`` ids are
those of images and come again, the first folder of `image` (coco, gqa, ocr_vqa, textvqa, vg) says where a record is from,
and some conversations of text begin with an answer, which LLaVA's trainer passes over (``llava/train/train.py``,
`preprocess_v1`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_mm_align.datasets.draft import PAPER_HEAD, Draft
from nemo_mm_align.datasets.formats.common import image_list, turn_list
from nemo_mm_align.datasets.prepare.source import (
    EXAMPLES,
    PROMPTS,
    Item,
    Product,
    Source,
    folder_origin,
    images_in_front,
)

CONVERSATION_KEYS = ("id", "image", "images", "conversations")
METADATA_KEYS = ("model", "metadata")


class LlavaConversations(Source):
    """Conversations to imitate, or to take questions from.

    Args:
        origins: other names of first folders, {folder: origin}.
        images_first: ``<image>`` is put before the text of its turn, as LLaVA's trainers do; false: it stays where it is.
    """

    name = "llava"
    title = "LLaVA's conversations (conversations of from and value, without attribute lines)"
    keys = ("conversations",)
    used: ClassVar[tuple[str, ...]] = CONVERSATION_KEYS
    published: ClassVar[tuple[str, ...]] = METADATA_KEYS
    gives: ClassVar[tuple[Product, ...]] = (PROMPTS, EXAMPLES)
    unread: ClassVar[tuple[str, ...]] = ("ignore_labels",)

    def __init__(
        self,
        origins: Mapping[str, str] | None = None,
        images_first: bool = True,
        paper: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(paper)
        self.origins, self.images_first = dict(origins or {}), images_first

    @classmethod
    def recognises(cls, record: Mapping[str, Any]) -> bool:
        """By its key, unless a user turn of the record carries an attribute line."""
        return super().recognises(record) and not carries_line(record)

    def parse(self, record: Mapping[str, Any], record_id: str) -> Item:
        """A conversation, its leading answer left out where it has one."""
        turns = turn_list(record, "conversations", "from", "value")
        note = ""
        if [role for role, _ in turns[:2]] == ["assistant", "user"]:
            note = "leading answer without a question left out"
            del turns[0]
        if self.images_first:
            images_in_front(turns)
        images = image_list(record)
        draft = Draft(record_id, images, turns)
        if not self.attributed and carries_line(record):
            draft.fault(
                "attribute_line", "a user turn carries an attribute line.", "read the file by source=steerlm_json."
            )
        return Item(draft, folder_origin(str(images[0]) if images else None, self.origins), note=note)


def carries_line(record: Mapping[str, Any]) -> bool:
    """Whether any message of a conversation has the paper's attribute line in it."""
    messages = record.get("conversations")
    texts = (
        [message.get("value") for message in messages if isinstance(message, Mapping)]
        if isinstance(messages, list)
        else []
    )
    return any(isinstance(text, str) and PAPER_HEAD.strip() in text for text in texts)
