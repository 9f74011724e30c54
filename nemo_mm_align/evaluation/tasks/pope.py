"""POPE: yes/no questions about objects in pictures, in three splits that differ in which absent objects are asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.sources import SourceFile
from nemo_mm_align.evaluation.tasks.pope_data import SPLITS, PopeQuestion, pope_sources, read_pope
from nemo_mm_align.evaluation.tasks.pope_files import pope_answer_files, read_pope_answers
from nemo_mm_align.evaluation.tasks.pope_statistics import columns_of, pope_statistics
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.evaluation.tasks.unjudged import (
    UNPARSABLE,
    image_prompt,
    scored_by_rule,
    truth_of,
    unparsable_cautions,
)
from nemo_mm_align.evaluation.tasks.yes_or_no import RULES, Rule, whole_words
from nemo_mm_align.schema.records import Decoding, Prompt

MEAN_F1 = Measure(
    name="mean_f1",
    label="Mean F1",
    digits=3,
    about=f"Mean F1: of the splits that were answered ({', '.join(SPLITS)}), yes being what is looked for.",
)
ACCURACY = Measure(name="accuracy", label="Accuracy", share=True, digits=3)
GROUPED = (
    Measure(name="accuracy_by_split", label="Accuracy by split", share=True, digits=3, grouped=True),
    Measure(name="f1", label="F1 by split", digits=3, grouped=True),
    Measure(name="precision", label="Precision by split", digits=3, grouped=True),
    Measure(name="recall", label="Recall by split", digits=3, grouped=True),
    Measure(name="yes_rate", label="Share of yes by split", better=None, digits=3, grouped=True),
)


class PopeTask:
    """Scores answers by their yes or no. Questions about one picture are drawn together where they are resampled.

    Definition: github.com/AoiDragon/POPE, evaluate.py, commit f3ec604; decoding and suffix as LLaVA-1.5 was evaluated:
    github.com/haotian-liu/LLaVA, scripts/v1_5/eval/pope.sh and llava/eval/model_vqa_loader.py, commit c121f04. Both scripts pair
    answers and labels by their order, so that a missing answer shifts all that follow; here they are paired by their ids.

    Args:
        data: see `read_pope`.
        annotations: folder of the labels, for LLaVA's question file.
        image_root: folder of COCO's val2014 pictures; None: beside the data.
        rule: how an answer is read, see `yes_or_no`. An answer that does not say yes or no in words counts as unparsable under
            every rule; `pope` and `llava` score it as yes, as their scripts do, `words` as wrong.
        suffix: what is asked for after each question, on a line of its own; "" for nothing.
        max_new_tokens: of each answer, decoded greedily.
    """

    name = "pope"
    answer_form = "POPE's answers (question, answer), LLaVA's (question_id, text)"
    answer_folders = True
    measures = (MEAN_F1, ACCURACY, UNPARSABLE, *GROUPED)

    def __init__(
        self,
        data: str,
        annotations: str | None = None,
        image_root: str | None = None,
        rule: Rule = "pope",
        suffix: str = "Answer the question using a single word or phrase.",
        max_new_tokens: int = 128,
    ) -> None:
        self._data, self._annotations, self._suffix, self._read = data, annotations, suffix.strip(), RULES[rule]
        self._images = Path(image_root) if image_root else Path(data) if Path(data).is_dir() else Path(data).parent
        self._decoding = Decoding(temperature=0, max_new_tokens=max_new_tokens)
        self._questions: list[PopeQuestion] | None = None
        self.statistics = pope_statistics()

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The files of questions and labels."""
        return pope_sources(self._data, self._annotations)

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the questions of all splits."""
        return [self._prompt(one) for one in self._all(images)]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Read each answer by the rule."""
        return [self._scored(one) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Return the label."""
        return str(prompt.metadata.get("label", ""))

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Name methods whose answers do not say yes or no."""
        return unparsable_cautions(methods)

    def read_answers(self, path: Path) -> dict[str, tuple[str, ...]] | None:
        """Read POPE's ``{question, answer}`` or LLaVA's ``{question_id, text}``, see `read_pope_answers`."""
        return read_pope_answers(path, self._all())

    def field_files(self, name: str, scored: Sequence[ScoredAnswer]) -> dict[str, str]:
        """Write POPE's answer files, one per split."""
        return pope_answer_files(name, scored, self._all())

    def _all(self, cache: Path | None = None) -> list[PopeQuestion]:
        if self._questions is None:
            self._questions = read_pope(self._data, self._annotations, cache)
        return self._questions

    def _prompt(self, one: PopeQuestion) -> Prompt:
        text = one.text if one.text.endswith(self._suffix) else f"{one.text}\n{self._suffix}"
        metadata = {"split": one.split, "label": one.label, "picture": one.picture, "source": one.split}
        return image_prompt(one.id, text, self._images / one.image, self._decoding, metadata)

    def _scored(self, one: Answered) -> ScoredAnswer:
        label, split = (str(truth_of(one.prompt, key, self.name)) for key in ("label", "split"))
        if split not in SPLITS:
            raise UserError(f"prompt {one.prompt.id}: metadata.split={split!r} is none of {', '.join(SPLITS)}.")
        read = self._read(one.text)
        right = float(read == label)
        return scored_by_rule(
            one,
            {
                ACCURACY.name: right,
                f"accuracy_by_split.{split}": right,
                UNPARSABLE.name: float(not whole_words(one.text)),
            },
            source=split,
            group=str(one.prompt.metadata.get("picture", "")),
            columns=columns_of(split, label, read),
        )
