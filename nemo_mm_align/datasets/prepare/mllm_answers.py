"""Answers to imitate, as the seed paper's authors publish them: perfect ones of the model's own, or Gemini's.

``playground/data/rejection_sampling.json`` and ``standard_sft.json`` (findalexli/mllm-dpo at 67f651c, ``README.MD``): LLaVA's
conversations in a table with the columns of ``scripts/v1_5/inspect_training_data.ipynb``, images under ``lrv_image_folder/`` and
``scigraph/``.
"""

from __future__ import annotations

from collections.abc import Mapping

from nemo_mm_align.datasets.prepare.llava import METADATA_KEYS, LlavaConversations
from nemo_mm_align.datasets.prepare.source import EXAMPLES, PROMPTS
from nemo_mm_align.datasets.prepare.steerlm_json import TABLE


class PaperAnswers(LlavaConversations):
    """The authors' conversations without attribute lines.

    Args:
        name: which of the two files it is: ``rejection_json`` or ``sft_json``.
        origins, images_first, paper: see `LlavaConversations` and `Source`.
    """

    title = "LLaVA's conversations in the columns of the seed paper's authors, without attribute lines"
    published = (*METADATA_KEYS, *TABLE.split(), "attributes_string")
    gives = (EXAMPLES, PROMPTS)

    def __init__(
        self,
        name: str,
        origins: Mapping[str, str] | None = None,
        images_first: bool = True,
        paper: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(origins, images_first, paper)
        self.name = name
