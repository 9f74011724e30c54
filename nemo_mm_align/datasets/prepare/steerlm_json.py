"""Conversations whose user turn asks for the attributes of the answer, as the seed paper's authors publish them.

The line at the end of the user turn is that of findalexli/mllm-dpo at 67f651c (``llava/eval/gen_model_answer.py``): the sentence
of `schema.attributes.STEERING_LINE`, then ``Helpfulness:4,Correctness:4,...``. The other columns are those of the authors' table
(``scripts/v1_5/inspect_training_data.ipynb``). Every answer of a prompt stands there with its ratings, so that annotations
can be put together again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.datasets.draft import PAPER_HEAD
from nemo_mm_align.datasets.prepare.llava import CONVERSATION_KEYS, METADATA_KEYS, LlavaConversations, carries_line
from nemo_mm_align.datasets.prepare.source import ANNOTATIONS, EXAMPLES, PROMPTS, Item

TABLE = (
    "Key Candidate CommentSection Helpfulness Correctness Coherence Complexity Verbosity cur_candidate_answer question_id prompt "
    "answer_id model_id gpt4v_response Sum Total_Sum DatasetName Output Hallucinations Quality Spatial-Awareness Domain-Knowledge"
)
"""Columns of the authors' tables, this paper's and the one before; the turns say the same once more."""


class AttributeConversations(LlavaConversations):
    """``steerlm.json`` of the authors.

    Args:
        judge: who rated the answers.
        origins, images_first, paper: see `LlavaConversations` and `Source`.
    """

    name = "steerlm_json"
    title = "LLaVA's conversations with an attribute line in the user turn"
    used = (*CONVERSATION_KEYS, "attributes_string")
    published = (*METADATA_KEYS, *TABLE.split())
    gives = (ANNOTATIONS, EXAMPLES, PROMPTS)
    attributed = True
    unread = ()

    def __init__(
        self,
        judge: str,
        origins: Mapping[str, str] | None = None,
        images_first: bool = True,
        paper: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(origins, images_first, paper)
        self.judge = judge

    @classmethod
    def recognises(cls, record: Mapping[str, Any]) -> bool:
        """By the line in its turns."""
        return "conversations" in record and carries_line(record)

    def parse(self, record: Mapping[str, Any], record_id: str) -> Item:
        """A conversation; what the line says is read by the schema afterwards."""
        item = super().parse(record, record_id)
        asking = [text for role, text in item.draft.turns if role == "user"]
        head, column = PAPER_HEAD.strip(), record.get("attributes_string")
        if any(head in text for text in asking[:-1]):
            problem, remedy = "an earlier user turn carries an attribute line.", "keep the last question's alone."
            item.draft.fault("attribute_line_earlier", problem, remedy)
        line = asking[-1].rpartition(head)[2].strip() if asking and head in asking[-1] else None
        if line is not None and isinstance(column, str) and column.strip() != line:
            problem = f"attributes_string says {column.strip()!r}, the user turn {line!r}."
            item.draft.fault("attributes_differ", problem, "keep the values that are right in both.")
        return item
