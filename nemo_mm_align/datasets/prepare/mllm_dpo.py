"""The seed paper's preference pairs.

``dpo_inference0104.with_logpllava-v1.5-13b_2024-02-03.json`` (findalexli/mllm-dpo at 67f651c, ``README.MD``). Its fields are
those that ``llava/eval/eval_logp_for_ddp_self_sampled_llava8times.ipynb`` writes and ``llava/train/train.py`` reads
(`encode_multimodal_preference_sample`): ``image``, ``question``, ``chosen`` and ``rejected`` as ``{from, value}`` or the text of
one, and log-probs ``ref_{win,rej}_{logp,avg_logp,per_token_logp}`` of llava-v1.5-13b.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.datasets.formats.common import Context
from nemo_mm_align.datasets.formats.llava import DPO_KEYS, parse_dpo
from nemo_mm_align.datasets.prepare.source import EXAMPLES, PROMPTS, Item, Source, folder_origin
from nemo_mm_align.datasets.prepare.steerlm_json import TABLE


class PaperPairs(Source):
    """Pairs of a better and a worse answer.

    Args:
        origins: other names of the images' first folders, {folder: origin}.
        reference_log_probs: whether the published log-probs are taken over; they are of llava-v1.5-13b in fp16.
    """

    name = "mllm_dpo"
    title = "the seed paper's preference pairs (question, chosen, rejected)"
    keys = ("question", "chosen", "rejected")
    used = DPO_KEYS
    published = (*TABLE.split(), "conversations", "attributes_string")
    gives = (EXAMPLES, PROMPTS)
    unread = ("question", "ignore_labels")

    def __init__(
        self,
        origins: Mapping[str, str] | None = None,
        reference_log_probs: bool = False,
        paper: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(paper)
        self.origins, self.reference_log_probs = dict(origins or {}), reference_log_probs

    def parse(self, record: Mapping[str, Any], record_id: str) -> Item:
        """One pair."""
        if not self.reference_log_probs:
            record = {key: value for key, value in record.items() if not key.startswith("ref_")}
        draft = parse_dpo(record, record_id, Context())
        return Item(draft, folder_origin(str(draft.images[0]) if draft.images else None, self.origins))
