"""ScienceQA as LLaVA is evaluated on it: multiple choice, with and without a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.image_store import default_cache
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.sources import SourceFile
from nemo_mm_align.evaluation.tasks.llava_files import is_llava, llava_answer, llava_answers
from nemo_mm_align.evaluation.tasks.option_letters import scienceqa_letter
from nemo_mm_align.evaluation.tasks.scienceqa_data import LETTERS, ScienceQuestion, read_scienceqa, scienceqa_sources
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.evaluation.tasks.unjudged import (
    UNPARSABLE,
    image_prompt,
    scored_by_rule,
    truth_of,
    unparsable_cautions,
)
from nemo_mm_align.schema.records import Decoding, Prompt

IMAGE_ACCURACY = Measure(
    name="image_accuracy",
    label="Accuracy, with picture",
    share=True,
    digits=3,
    about="Accuracy, with picture: questions that come with one, the figure that LLaVA's tables show.",
)
ACCURACY = Measure(name="accuracy", label="Accuracy, all", share=True, digits=3)
SUBJECT = Measure(name="subject", label="By subject", share=True, digits=3, grouped=True)
CONTEXT = Measure(name="context", label="By context", share=True, digits=3, grouped=True)
GRADES = Measure(name="grades", label="By grades", share=True, digits=3, grouped=True)


class ScienceQATask:
    """Scores the letters that answers choose; one without a letter of its question's options is wrong and counted.

    Definition: github.com/haotian-liu/LLaVA, llava/eval/eval_science_qa.py, commit 5200b75; prompts and decoding:
    llava/eval/model_vqa_science.py and scripts/v1_5/eval/sqa.sh, commit c121f04. A question without an answer counts as wrong
    there; here it is missing.

    Args:
        data: see `read_scienceqa`.
        split: ``test``, ``val`` or ``minival``, ...: as ``pid_splits.json`` or the dataset calls it.
        image_root: folder of the pictures; None: ``images/<split>`` beside the data.
        suffix: what is asked for after the question, on a line of its own; "" for nothing.
        max_new_tokens: of each answer, decoded greedily.
    """

    name = "scienceqa"
    answer_form = "LLaVA's answers (question_id, text)"
    measures = (IMAGE_ACCURACY, ACCURACY, UNPARSABLE, SUBJECT, CONTEXT, GRADES)

    def __init__(
        self,
        data: str,
        split: str = "test",
        image_root: str | None = None,
        suffix: str = "Answer with the option's letter from the given choices directly.",
        max_new_tokens: int = 1024,
    ) -> None:
        self._data, self._split, self._image_root, self._suffix = data, split, image_root, suffix.strip()
        self._decoding = Decoding(temperature=0, max_new_tokens=max_new_tokens)
        self._questions: list[ScienceQuestion] | None = None

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The data set's files."""
        return scienceqa_sources(self._data, self._split)

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the questions of the split."""
        return [self._prompt(one) for one in self._all(images)]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Read each answer's letter."""
        return [self._scored(one) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Return the right letter."""
        return str((prompt.metadata.get(self.name) or {}).get("answer", ""))

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Name methods whose answers choose no option."""
        return unparsable_cautions(methods)

    def read_answers(self, path: Path) -> dict[str, tuple[str, ...]] | None:
        """Read LLaVA's ``{question_id, text}``."""
        return llava_answers(path) if is_llava(path) else None

    def field_files(self, name: str, scored: Sequence[ScoredAnswer]) -> dict[str, str]:
        """Write LLaVA's answer file, which its eval_science_qa.py reads."""
        answers = {one.prompt_id: one.answer for one in scored if not one.failed}
        prompts = [self._prompt(one) for one in self._all(default_cache()) if one.id in answers]
        records = [llava_answer(one.id, one.turns[0].content, answers[one.id], name) for one in prompts]
        return {f"{name}_scienceqa.jsonl": "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)}

    def _all(self, cache: Path) -> list[ScienceQuestion]:
        if self._questions is None:
            self._questions = read_scienceqa(self._data, self._split, self._image_root, cache)
        return self._questions

    def _prompt(self, one: ScienceQuestion) -> Prompt:
        truth = {
            "answer": one.answer,
            "choices": one.choices,
            "subject": one.subject,
            "grades": one.grades,
            "contexts": list(one.contexts),
        }
        text = f"{one.text.replace('<image>', '').strip()}\n{self._suffix}".strip()
        return image_prompt(one.id, text, one.image, self._decoding, {self.name: truth, "source": one.subject})

    def _scored(self, one: Answered) -> ScoredAnswer:
        truth = truth_of(one.prompt, self.name, self.name)
        try:
            letters, answer = LETTERS[: truth["choices"]], truth["answer"]
            groups = {"subject": [truth["subject"]], "context": truth["contexts"], "grades": [truth["grades"]]}
        except (KeyError, TypeError):
            raise UserError(f"prompt {one.prompt.id}: metadata.{self.name} is not what the task writes.") from None
        letter = scienceqa_letter(one.text)
        right = float(letter == answer)
        values = {ACCURACY.name: right, UNPARSABLE.name: float(not letter or letter not in letters)}
        values |= {f"{name}.{part}": right for name, parts in groups.items() for part in parts if part}
        if "IMG" in groups["context"]:
            values[IMAGE_ACCURACY.name] = right
        return scored_by_rule(one, values, source=truth["subject"])
