"""Any prompts: what a judge says of the answers, attribute by attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.tasks.rated import BY_SOURCE, CORRECT, JUDGED, WORDS, score_measure, values_of
from nemo_mm_align.evaluation.tasks.scored import scored_answer
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.schema.records import Prompt, read_records

SOURCES = ("source", "dataset")
"""Keys of a prompt's metadata that say where it comes from."""


class AttributesTask:
    """Scores answers by a judge's ratings; an answer that the judge could not rate is missing, never 0.

    Args:
        schema: the attributes that are judged.
        data: JSONL file of the prompts; None where the evaluation is given one.
        image_root: folder of their images; by default they lie relative to that file.
    """

    name = "attributes"
    rated = True

    def __init__(self, schema: AttributeSchema, data: str | None = None, image_root: str | None = None) -> None:
        self.schema, self._data, self._image_root = schema, data, image_root
        self.measures = (score_measure(schema), CORRECT, WORDS, JUDGED, BY_SOURCE)

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the prompts of `data`."""
        if self._data is None:
            raise UserError(
                f"task {self.name}: no prompts are named. Give prompts=FILE.jsonl, or the task's data: FILE.jsonl."
            )
        file = Path(self._data)

        def absolute(prompt: Prompt) -> Prompt:
            paths = tuple(str(resolve_image(path, file, self._image_root).absolute()) for path in prompt.images)
            return prompt.model_copy(update={"images": paths})

        return [absolute(prompt) for prompt in read_records(file, Prompt)]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Count what the judge said."""
        return [self._scored(one) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Nobody knows."""
        return ""

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Say which methods answer longer than the base: judges prefer length."""
        longer = [
            name
            for name, one in methods.items()
            if (words := one.measurements.get(WORDS.name))
            and words.minus_base is not None
            and words.minus_base > 0.2 * (words.value - words.minus_base)
        ]
        return [f"Answers of {name} are longer than the base's; judges tend to prefer length." for name in longer]

    def _scored(self, one: Answered) -> ScoredAnswer:
        prompt = one.prompt
        source = next((str(prompt.metadata[key]) for key in SOURCES if prompt.metadata.get(key)), "")
        if one.ratings is None:
            return scored_answer(one, {}, one.failure or "not rated", source=source)
        values = values_of(one.ratings, self.schema, prompt.id, source)
        values[WORDS.name] = float(len(one.text.split()))
        return scored_answer(one, values, source=source, ratings=dict(one.ratings))
