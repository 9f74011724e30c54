"""A scored answer, with what can be told of any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.tasks.task import Answered


def scored_answer(one: Answered, values: Mapping[str, float], failed: str = "", **more: Any) -> ScoredAnswer:
    """Return what an answer is worth.

    Args:
        values: of the task's measures.
        failed: why it could not be scored; it then has neither values nor columns.
        more: further fields of `ScoredAnswer`, in place of what any answer has.
    """
    common = {
        "prompt_id": one.prompt.id,
        "kind": "image prompts" if one.prompt.images else "text prompts",
        "answer": one.text,
        "follow_up_answers": one.follow_up_answers,
        "num_words": one.num_words,
        "num_tokens": one.num_tokens,
        "asked": dict(one.asked) if one.asked else None,
        **more,
    }
    if failed:
        return ScoredAnswer.model_validate({**common, "failed": failed, "columns": {}})
    return ScoredAnswer.model_validate({**common, "values": dict(values)})
