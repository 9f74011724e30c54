"""An evaluation task without a judge and with prompts of its own: words of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.schema.records import Prompt, Turn


class WordTask:
    """Counts words of the first answer; of ``text`` nobody can."""

    name = "word_count"
    measures = (Measure(name="words", label="Words"),)

    def prompts(self, images: Path) -> list[Prompt]:
        """Return six questions."""
        return [Prompt(id=f"q{n}", turns=(Turn(role="user", content=f"{'no ' * n}circle?"),)) for n in range(6)]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Count."""
        return [
            ScoredAnswer(prompt_id=one.prompt.id, failed="unreadable")
            if one.prompt.id == "text"
            else ScoredAnswer(prompt_id=one.prompt.id, values={"words": len(one.text.split())})
            for one in answered
        ]

    def reference(self, prompt: Prompt) -> str:
        """Nobody knows."""
        return ""

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """None."""
        return []
