"""From the configuration group `judge` to a judge."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from nemo_mm_align.core.construction import check_has, construct
from nemo_mm_align.labeling.judge import Judge
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.llm.client import Asks
from nemo_mm_align.llm.clients.api_key import only_estimating
from nemo_mm_align.schema.attributes import AttributeSchema

MOVED = {
    f"nemo_mm_align.labeling.judges.{before}": f"nemo_mm_align.llm.clients.{now}"
    for before, now in (
        ("gemini.GeminiJudge", "gemini.Gemini"),
        ("google_genai.GoogleGenaiJudge", "google_genai.GoogleGenai"),
        ("openai_compatible.OpenAICompatibleJudge", "openai_compatible.OpenAICompatible"),
    )
}
"""Where what earlier configurations name as `_target_` is now."""


JUDGE_HAS = ("name", "settings", "reads_metadata", "judge")


def build_judge(config: Mapping[str, Any], schema: AttributeSchema, asks: bool = True) -> Judge:
    """Return the judge that `_target_` names, made with the other keys as arguments.

    A client of a language model is given the rubric and so becomes a judge. A class with an argument `schema` (one whose
    rules fit certain attributes only) is given the run's.

    Args:
        asks: whether it is to judge; one that is not (a dry run) needs no API key.

    Raises:
        UserError: `_target_` names no class, or a key is none of its arguments. The class itself may raise one too.
    """
    target = str(config.get("_target_", "")) if isinstance(config, Mapping) else ""
    renewed = {**config, "_target_": MOVED[target]} if target in MOVED else config
    with nullcontext() if asks else only_estimating():
        made: Any = construct(renewed, "judge", "judges", {"schema": schema})
    is_client = isinstance(made, Asks)  # narrows nothing: what else a client has is its protocol's business
    wanted = ("name", "settings", "price", "max_output_tokens") if is_client else JUDGE_HAS
    check_has(made, wanted, "judge", "a language model" if is_client else "a judge")
    judge: Judge = RubricJudge(made) if is_client else made
    return judge
