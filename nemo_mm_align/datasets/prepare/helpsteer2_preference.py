"""HelpSteer2-Preference: which of two answers people prefer, and how strongly.

Fields as the data set's card shows them (huggingface.co/datasets/nvidia/HelpSteer2, folder ``preference``) and
NVIDIA/NeMo-Aligner at af2b3bd reads them (``examples/nlp/data/steerlm/preprocess_helpsteer2_data.py``): ``split``, ``prompt``,
``response_1``, ``response_2``, ``preference_strength`` from -3 (the first is much better) to 3 (the second is).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.formats.common import malformed, text_field
from nemo_mm_align.datasets.prepare.helpsteer import prompt_turns
from nemo_mm_align.datasets.prepare.source import EXAMPLES, PROMPTS, Item, Source

STRONGEST = 3
PARTS = {"train": ("train",), "validation": ("validation", "val")}


class HelpSteer2Preference(Source):
    """Pairs without images.

    Args:
        part: which of the file's own splits is read; null reads both.
        least_strength: of a preference; weaker ones are left out, ties always.
    """

    name = "helpsteer2_preference"
    title = "HelpSteer2-Preference (prompt, response_1, response_2, preference_strength)"
    keys = ("prompt", "response_1", "response_2", "preference_strength")
    used = (*keys, "split")
    published = (
        "preference_statement",
        "preference_elaboration",
        "three_most_similar_preferences",
        "all_preferences_unprocessed",
    )
    gives = (EXAMPLES, PROMPTS)
    unread = ("ignore_labels",)

    def __init__(
        self,
        part: Literal["train", "validation"] | None = None,
        least_strength: int = 1,
        paper: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(paper)
        self.part, self.least_strength = part, least_strength

    def parse(self, record: Mapping[str, Any], record_id: str) -> Item | str:
        """One pair; why not, for a tie, a preference too weak or another split."""
        strength = record.get("preference_strength")
        if not isinstance(strength, int) or isinstance(strength, bool) or abs(strength) > STRONGEST:
            raise malformed("preference_strength", strength, f"a whole number from -{STRONGEST} to {STRONGEST}")
        if self.part is not None and record.get("split") not in PARTS[self.part]:
            return f"not of part={self.part}"
        if abs(strength) < max(self.least_strength, 1):
            return "a tie" if strength == 0 else f"preference weaker than {self.least_strength}"
        answers = [text_field(record, key).strip() for key in ("response_1", "response_2")]
        chosen, rejected = answers if strength < 0 else reversed(answers)
        return Item(Draft(record_id, [], prompt_turns(record), (chosen, rejected)), self.name)
