"""HelpSteer and HelpSteer2: people's ratings of answers on five attributes.

Fields as NVIDIA's own preprocessing reads them (NVIDIA/NeMo-Aligner at af2b3bd,
``examples/nlp/data/steerlm/preprocess_helpsteer_data.py`` and ``preprocess_helpsteer2_data.py``): ``prompt``, ``response`` and
whole numbers ``helpfulness``, ``correctness``, ``coherence``, ``complexity``, ``verbosity``. Turns of HelpSteer2's longer prompts
are parted by ``<extra_id_1>Assistant`` and ``<extra_id_1>User`` (``common.py`` there).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.faults import MalformedRecord, Problem
from nemo_mm_align.datasets.formats.common import text_field
from nemo_mm_align.datasets.prepare.source import ANNOTATIONS, EXAMPLES, PROMPTS, Item, Source

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
TURN = re.compile(r"<extra_id_1>(User|Assistant)\n")


class HelpSteer(Source):
    """Rated answers without images.

    Args:
        judge: who rated them, as annotations say it.
        name: which of the two it is: ``helpsteer`` or ``helpsteer2``.
    """

    name = "helpsteer"
    title = "HelpSteer or HelpSteer2 (prompt, response and five ratings)"
    keys = ("prompt", "response", *ATTRIBUTES)
    used = keys
    gives = (ANNOTATIONS, EXAMPLES, PROMPTS)
    unread = ("ignore_labels",)

    def __init__(self, judge: str, name: str = "helpsteer", paper: Mapping[str, int] | None = None) -> None:
        super().__init__(paper, judge)
        self.name = name

    def parse(self, record: Mapping[str, Any], record_id: str) -> Item:
        """An answer with its ratings, which the schema checks afterwards."""
        turns = [*prompt_turns(record), ["assistant", text_field(record, "response").strip()]]
        ratings = {name: record[name] for name in ATTRIBUTES if record.get(name) is not None}
        if any(isinstance(value, list) for value in ratings.values()):
            problem = "its ratings are lists: this is the file of the single annotators' ratings (disagreements)."
            raise MalformedRecord(Problem("field", problem, "take train.jsonl.gz or validation.jsonl.gz."))
        return Item(Draft(record_id, [], turns, attributes=ratings), self.name)


def prompt_turns(record: Mapping[str, Any]) -> list[list[str]]:
    """Return the turns of a prompt, whose markers part the later ones; the first is the user's."""
    first, *rest = TURN.split(text_field(record, "prompt"))
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return [["user", first.strip()], *([role.lower(), text.strip()] for role, text in pairs)]
