"""LRV-Instruction: questions on natural images, half of them about what is not there.

Fields as the authors' README shows them (FuxiaoLiu/LRV-Instruction at 0a5ab53, ``README.md``, "Visual Instruction Data"):
``{image_id, question, answer, task}``, the images ``<image_id>.jpg`` (``cc_sbu_dataset.py`` of the same repository). The chart
file's `image_id` is a file name with its ending, and the evaluation set has no answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.formats.common import text_field
from nemo_mm_align.datasets.prepare.source import EXAMPLES, PROMPTS, Item, Source, image_field
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER


class Lrv(Source):
    """``filter_cap.json`` and its relatives.

    Args:
        ending: of the image files, where `image_id` names none.
    """

    name = "lrv"
    title = "LRV-Instruction (image_id, question, answer, task)"
    keys = ("image_id", "question")
    used = ("image_id", "question", "answer", "task")
    published = ("id",)
    gives = (PROMPTS, EXAMPLES)
    unread = ("question", "ignore_labels")

    def __init__(self, ending: str = ".jpg", paper: Mapping[str, int] | None = None) -> None:
        super().__init__(paper)
        self.ending = ending

    def parse(self, record: Mapping[str, Any], record_id: str) -> Item:
        """One question on one image."""
        question = text_field(record, "question").replace(IMAGE_PLACEHOLDER, "").strip()
        turns = [["user", f"{IMAGE_PLACEHOLDER}\n{question}" if question else ""]]
        draft = Draft(record_id, [image_field(record, "image_id", self.ending)], turns)
        if "answer" in record:
            turns.append(["assistant", text_field(record, "answer").strip()])
        else:
            draft.answers = ()
        return Item(draft, "lrv", str(record.get("task") or ""))
