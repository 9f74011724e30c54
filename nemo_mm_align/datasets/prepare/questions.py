"""LLaVA's question files, one JSON object per line: what its evaluation and sampling scripts read.

Fields as ``llava/eval/model_vqa_loader.py`` reads them (findalexli/mllm-dpo at 67f651c; haotian-liu/LLaVA at c121f04):
``question_id``, ``image``, ``text``, and ``category`` in some. The seed paper's prompts were such files
(``deplot_test_for_llava_inference.jsonl``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.formats.common import image_list, text_field
from nemo_mm_align.datasets.prepare.source import PROMPTS, Item, Source, folder_origin
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER


class Questions(Source):
    """Questions without answers.

    Args:
        origins: other names of the images' first folders, {folder: origin}.
    """

    name = "questions"
    title = "LLaVA's question files (question_id, image, text)"
    keys = ("question_id", "text")
    used = ("question_id", "image", "text", "category")
    published = ("label", "id")
    gives = (PROMPTS,)
    unread = ("question", "ignore_labels")

    def __init__(self, origins: Mapping[str, str] | None = None, paper: Mapping[str, int] | None = None) -> None:
        super().__init__(paper)
        self.origins = dict(origins or {})

    def parse(self, record: Mapping[str, Any], record_id: str) -> Item:
        """One question; the image comes before it, as LLaVA's scripts put it."""
        images, text = image_list(record), text_field(record, "text").replace(IMAGE_PLACEHOLDER, "").strip()
        given = record.get("question_id")
        name = str(given) if isinstance(given, str | int) and str(given) else record_id
        content = f"{IMAGE_PLACEHOLDER}\n" * len(images) + text if text else ""
        draft = Draft(name, images, [["user", content]], answers=())
        return Item(
            draft, folder_origin(str(images[0]) if images else None, self.origins), str(record.get("category") or "")
        )
