"""MMBench: questions with up to four options about pictures, right only if right however the options are turned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.datasets.image_store import default_cache
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.sources import SourceFile, source_file
from nemo_mm_align.evaluation.tasks.mmbench_data import MMBenchQuestion, read_mmbench
from nemo_mm_align.evaluation.tasks.mmbench_files import read_sheet_answers, sheet_files
from nemo_mm_align.evaluation.tasks.option_letters import RULES, Rule
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.evaluation.tasks.unjudged import (
    UNPARSABLE,
    image_prompt,
    no_answer,
    scored_by_rule,
    truth_of,
    unparsable_cautions,
)
from nemo_mm_align.schema.records import Decoding, Prompt

CIRCULAR = Measure(
    name="circular",
    label="Circular accuracy",
    share=True,
    digits=3,
    about="Circular accuracy: questions that are answered rightly in every order of their options.",
)
VANILLA = Measure(
    name="vanilla",
    label="Accuracy as asked",
    share=True,
    digits=3,
    about="Accuracy as asked: questions that are answered rightly with their options in the order of the data.",
)
L2 = Measure(name="l2_category", label="By ability", share=True, digits=3, grouped=True)
CATEGORY = Measure(name="category", label="By category", share=True, digits=3, grouped=True)


class MMBenchTask:
    """Scores the letters that answers choose. An answer without one is wrong and counted; no option is drawn for it.

    Definition: github.com/open-compass/VLMEvalKit, vlmeval/dataset/utils/multiple_choice.py (mcq_circular_eval, exact matching),
    commit 028a6e7; prompt, turns and decoding: github.com/haotian-liu/LLaVA, llava/eval/model_vqa_mmbench.py and
    scripts/v1_5/eval/mmbench.sh, commit c121f04.

    Args:
        data: see `read_mmbench`.
        split: of a dataset, or rows of the file to keep; "" for all of a file.
        circular: ask every question as often as it has options, turning them.
        rule: how a letter is found in an answer, see `option_letters`.
        suffix: what is asked for after the options, on a line of its own; "" for nothing.
        max_new_tokens: of each answer, decoded greedily.
    """

    name = "mmbench"
    answer_form = "MMBench's sheet (index, prediction), LLaVA's answers (question_id, round_id, text)"

    def __init__(
        self,
        data: str,
        split: str = "",
        circular: bool = True,
        rule: Rule = "vlmevalkit",
        suffix: str = "Answer with the option's letter from the given choices directly.",
        max_new_tokens: int = 1024,
    ) -> None:
        self._data, self._split, self._circular = data, split, circular
        self.measures = (*([CIRCULAR] if circular else []), VANILLA, UNPARSABLE, L2, CATEGORY)
        self._read, self._suffix = RULES[rule], suffix.strip()
        self._decoding = Decoding(temperature=0, max_new_tokens=max_new_tokens)
        self._questions: list[MMBenchQuestion] | None = None

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The table, where it is a file."""
        return (source_file(Path(self._data)),) if Path(self._data).is_file() else ()

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the questions, each with all its turns one after the other."""
        questions = self._all(images)
        turns = Counter(one.base for one in questions)
        return [self._prompt(one, turns[one.base]) for one in questions]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Read every answer; a question's figure stands with its first turn, and is missing where one of its turns is."""
        turns: dict[int, list[Answered]] = defaultdict(list)
        for one in answered:
            turns[self._truth(one)["base"]].append(one)
        return [self._scored(one, turns[self._truth(one)["base"]]) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Return the right letter and its text."""
        truth = prompt.metadata.get(self.name) or {}
        letter = truth.get("answer", "")
        return f"{letter}. {truth['options'][letter]}" if letter else ""

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Name methods whose answers choose no option."""
        return unparsable_cautions(methods)

    def read_answers(self, path: Path) -> dict[str, tuple[str, ...]] | None:
        """Read a sheet or LLaVA's answers, see `read_sheet_answers`."""
        return read_sheet_answers(path)

    def field_files(self, name: str, scored: Sequence[ScoredAnswer]) -> dict[str, str | bytes]:
        """Write the sheet, see `sheet_files`."""
        return sheet_files(name, scored, self._all(default_cache()))

    def _all(self, cache: Path) -> list[MMBenchQuestion]:
        if self._questions is None:
            self._questions = read_mmbench(self._data, self._split, self._circular, cache)
        return self._questions

    def _prompt(self, one: MMBenchQuestion, turns: int) -> Prompt:
        options = [f"{letter}. {text}" for letter, text in one.options.items()]
        text = "\n".join(
            [*([one.hint] if one.hint else []), one.question, *options, *([self._suffix] * bool(self._suffix))]
        )
        truth = {
            "base": one.base,
            "turns": turns,
            "answer": one.answer,
            "options": dict(one.options),
            "category": one.category,
            "l2_category": one.l2_category,
        }
        metadata = {self.name: truth, "source": one.category}
        return image_prompt(str(one.index), text, one.image, self._decoding, metadata)

    def _truth(self, one: Answered) -> dict[str, Any]:
        return dict(truth_of(one.prompt, self.name, self.name))

    def _letter(self, one: Answered) -> str:
        return self._read(one.text, self._truth(one)["options"])

    def _scored(self, one: Answered, turns: Sequence[Answered]) -> ScoredAnswer:
        truth = self._truth(one)
        more: dict[str, Any] = {"source": truth["category"], "group": str(truth["base"])}
        letter = self._letter(one)
        values = {UNPARSABLE.name: float(not letter)}
        if truth["answer"] and one is turns[0]:
            values[VANILLA.name] = float(letter == truth["answer"])
            figures = self._names(truth)
            if len(turns) < truth["turns"] or any(each.failure or no_answer(each.text) for each in turns):
                more["missing"] = figures
            else:
                right = all(self._letter(each) == self._truth(each)["answer"] for each in turns)
                values |= dict.fromkeys(figures, float(right))
        return scored_by_rule(one, values, **more)

    def _names(self, truth: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names that a question's figure goes by."""
        grouped = ((L2, truth["l2_category"]), (CATEGORY, truth["category"]))
        whole = (CIRCULAR.name,) if self._circular else ()
        return (*whole, *(f"{measure.name}.{value}" for measure, value in grouped if value))
