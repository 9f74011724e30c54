"""What tasks have in common that read answers by rules and ask no judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.tasks.scored import scored_answer
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.evaluation.wording import label_of
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Decoding, Prompt, Turn

UNPARSABLE = Measure(
    name="unparsable",
    label="Unparsable",
    share=True,
    better="lower",
    digits=3,
    about="Unparsable: answers in which the rules find none of the possible answers; nothing is guessed for them.",
)
MANY_UNPARSABLE = 0.05

NO_ANSWERS = ("[LMMS_EVAL_REQUEST_FAILED", "Failed to obtain answer via API")
"""What lmms-eval and VLMEvalKit write in an answer's place where they got none."""


def no_answer(text: str) -> str:
    """Return why a text is no answer but another tool's word for a failed request; "" for an answer, empty or not."""
    return next((f"the answer is another tool's {mark!r}" for mark in NO_ANSWERS if mark in text), "")


def scored_by_rule(one: Answered, values: Mapping[str, float], **more: Any) -> ScoredAnswer:
    """Return a scored answer, see `scored_answer`; missing where there was no answer to score."""
    return scored_answer(one, values, one.failure or no_answer(one.text), **more)


def image_prompt(
    key: str, question: str, image: str | Path | None, decoding: Decoding, metadata: Mapping[str, Any]
) -> Prompt:
    """Return a prompt whose image, if any, stands before its question."""
    text = question.replace(IMAGE_PLACEHOLDER, "")
    images = () if image is None else (str(Path(image).absolute()),)
    content = f"{IMAGE_PLACEHOLDER}\n{text.strip()}" if images else text
    return Prompt(
        id=key, images=images, turns=(Turn(role="user", content=content),), decoding=decoding, metadata=dict(metadata)
    )


def truth_of(prompt: Prompt, key: str, task: str) -> Any:
    """Return what a prompt of the task carries; `UserError` where it is none of the task's."""
    found = prompt.metadata.get(key)
    if found is None:
        raise UserError(f"task {task}: prompt {prompt.id} has no metadata.{key}. Give the prompts that the task wrote.")
    return found


def unparsable_cautions(methods: Mapping[str, MethodResult]) -> list[str]:
    """Name methods of whose answers the rules cannot read more than a few."""
    shares = {name: one.measurements.get(UNPARSABLE.name) for name, one in methods.items()}
    return [
        f"{found.value:.1%} of {label_of(name)}'s answers cannot be read by the task's rules: their form is measured as well."
        for name, found in shares.items()
        if found and found.value > MANY_UNPARSABLE
    ]
