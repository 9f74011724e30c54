"""SciGraphQA: dialogues about figures of papers.

Fields as the data set's card lists them (huggingface.co/datasets/alexshengzhili/SciGraphQA-295K-train at 8b13803) and as a
record looks in findalexli/SciGraphQA at bf01dc7 (``data_parsing/convert_to_image_prompted_qapair.ipynb``): ``image_file``,
``id``, ``caption``, ``title``, ``abstract``, ``first_mention``, ``response``, ``q_a_pairs`` ``[[question, answer], ...]`` and
``conversations`` ``[{from, value}]`` with ``<image>`` before or behind the first question, at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.formats.common import malformed, text_field, turn_list
from nemo_mm_align.datasets.prepare.source import EXAMPLES, PROMPTS, Item, Source, image_field, images_in_front
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER

Context = Literal["title", "abstract", "caption", "first_mention"]


class SciGraphQA(Source):
    """SciGraphQA-295K and its test file.

    Args:
        context: fields that are put before the first question, a line each; the seed paper stripped them.
    """

    name = "scigraphqa"
    title = "SciGraphQA (image_file, conversations or q_a_pairs, caption, title, ...)"
    keys = ("image_file",)
    used = ("id", "image_file", "conversations", "q_a_pairs", "caption", "title", "abstract", "first_mention")
    published = ("response", "deplot")
    gives = (PROMPTS, EXAMPLES)
    unread = ("ignore_labels",)

    def __init__(self, context: Sequence[Context] = (), paper: Mapping[str, int] | None = None) -> None:
        super().__init__(paper)
        self.context = tuple(context)

    @classmethod
    def recognises(cls, record: Mapping[str, Any]) -> bool:
        """Either form of the dialogue will do."""
        return super().recognises(record) and bool({"conversations", "q_a_pairs"} & set(record))

    def parse(self, record: Mapping[str, Any], record_id: str) -> Item:
        """A dialogue on one figure."""
        turns = turn_list(record, "conversations", "from", "value") if record.get("conversations") else _pairs(record)
        images_in_front(turns)
        if self.context and turns[0][0] == "user":
            before = "\n".join(text_field(record, key).strip() for key in self.context)
            question = turns[0][1].removeprefix(f"{IMAGE_PLACEHOLDER}\n")
            turns[0][1] = f"{IMAGE_PLACEHOLDER}\n{before}\n{question}"
        return Item(Draft(record_id, [image_field(record, "image_file")], turns), "scigraphqa")


def _pairs(record: Mapping[str, Any]) -> list[list[str]]:
    pairs = record.get("q_a_pairs")
    if not isinstance(pairs, list) or not pairs or not all(map(_is_pair, pairs)):
        raise malformed("q_a_pairs", pairs, "a list of [question, answer], where there are no conversations")
    turns = [[role, text] for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    turns[0][1] = f"{IMAGE_PLACEHOLDER}\n{turns[0][1]}"
    return turns


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and [type(text) for text in pair] == [str, str]
