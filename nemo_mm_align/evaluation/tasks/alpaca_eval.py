"""AlpacaEval 2: a judge's choice between a baseline's answer and ours, raw and with length held equal.

Read from tatsu-lab/alpaca_eval, commit cd543a149df89434d8a54582c0151c0b945c3d20: the annotator weighted_alpaca_eval_gpt4_turbo
and src/alpaca_eval/metrics/glm_winrate.py; what exactly stands in the modules of `evaluation/alpaca`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_mm_align.evaluation.alpaca import figures
from nemo_mm_align.evaluation.alpaca.figures import LC, LETTER, WIN, Comparison, without
from nemo_mm_align.evaluation.alpaca.files import Output, is_outputs, outputs_text
from nemo_mm_align.evaluation.alpaca.instruction_set import InstructionSet
from nemo_mm_align.evaluation.alpaca.preference import (
    BY_LETTER,
    PREFERENCE,
    TIE,
    PromptTemplate,
    is_switched,
    read_preference,
    read_template,
)
from nemo_mm_align.evaluation.alpaca.variant import Variant, variant_for
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judging import TaskQuestion
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.sources import SourceFile, source_file
from nemo_mm_align.evaluation.statistics import Statistic
from nemo_mm_align.evaluation.tasks.judged import judged_of, unrated_answer
from nemo_mm_align.evaluation.tasks.scored import scored_answer
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.evaluation.wording import label_of
from nemo_mm_align.llm.question import Answer, Question
from nemo_mm_align.schema.records import Decoding, Prompt

PUBLISHED = {
    "alpaca_eval_clf.txt": "784227e6dc2832fc08c43d2c8ea3a308e7523780187a1aaad2f85e30bac85f62",
    "model_outputs.json": "83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4",
}
"""The judge's prompt, and results/gpt4_1106_preview/model_outputs.json: the baseline, with the 805 instructions."""

DRAWN, OTHER = "drawn_order", "other_order"
"""Keys of the questions: the order that the instruction's seed draws, and the other one."""

RESAMPLES = 200
"""Of the regression, which is fitted anew in each."""

TIED = "Both answers are the same: a tie, without asking the judge."


class AlpacaEvalTask:
    """Asks a judge which of two answers is better, the baseline's or ours. An answer that it said nothing of is missing.

    Args:
        baseline: file with the baseline's answers, a list of ``{instruction, output, generator}``.
        judge_prompt: file with the judge's prompt, with ``{instruction}``, ``{output_1}`` and ``{output_2}``.
        data: file with the instructions, where they are a part of the baseline's.
        difficulty: table of difficulties, see `variant_for`; None: the minimal variant of the regression.
        both_orders: ask twice, in either order; the preference is the mean of both.
        top_logprobs: alternatives of the judge's first token that are asked for; 0: its letter counts.
        max_output_tokens: of the judge's reply; None: the judge's own limit, for one that thinks first.
        order_seed: of the order that is drawn.
        temperature, max_new_tokens: how our answers are to be decoded; None leaves it to the run.
        annotator: what the judge is called in the annotations file.
    """

    name = "alpaca_eval"
    answer_form = "AlpacaEval's model_outputs.json (instruction, output)"

    def __init__(
        self,
        baseline: str,
        judge_prompt: str,
        data: str | None = None,
        difficulty: str | None = None,
        both_orders: bool = False,
        top_logprobs: int = 5,
        max_output_tokens: int | None = 1,
        order_seed: int = 0,
        temperature: float | None = 0.7,
        max_new_tokens: int | None = 2048,
        annotator: str = "judge",
    ) -> None:
        self._set = InstructionSet(self.name, Path(baseline), Path(data) if data else None)
        self._prompt_path, self._difficulty = Path(judge_prompt), Path(difficulty) if difficulty else None
        self._orders = (DRAWN, OTHER) if both_orders else (DRAWN,)
        self._top_logprobs, self._max_output_tokens = top_logprobs, max_output_tokens
        self._order_seed, self._annotator = order_seed, annotator
        self._decoding = Decoding(temperature=temperature, max_new_tokens=max_new_tokens)

    @cached_property
    def variant(self) -> Variant:
        """The regression that the instruction set and the difficulty table allow."""
        return variant_for(self._difficulty, len(self._set.items))

    @cached_property
    def _template(self) -> PromptTemplate:
        return read_template(self._prompt_path)

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """LC win rate, raw win rate, and what they rest on."""
        return figures.measures(self.variant.label, self._set.generator, len(self._orders) > 1)

    @cached_property
    def statistics(self) -> tuple[Statistic, ...]:
        """The length-controlled win rate."""
        control = self.variant.control
        return (Statistic(LC, control.columns, control, RESAMPLES),)

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """Judge prompt, baseline, and the other files that were given."""
        return (
            source_file(self._prompt_path, PUBLISHED, "alpaca_eval_clf.txt"),
            source_file(self._set.baseline, PUBLISHED, "model_outputs.json"),
            *(source_file(path) for path in (self._set.data, self._difficulty) if path),
        )

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the instructions."""
        return self._set.prompts(self._decoding)

    def questions(self, answered: Answered) -> list[TaskQuestion]:
        """Return the choice between both answers; nothing where they are the same."""
        item = self._set.of(answered.prompt)
        if answered.text == item.output:
            return []
        return [self._question(order, item, answered.text) for order in self._orders]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Return each answer's preference as a win rate in per cent; what rests on letters is counted where anything does."""
        scored = [self._scored(one) for one in answered]
        if any(one.values.get(LETTER.name) for one in scored):
            return scored
        return [one.model_copy(update={"values": without(one.values, LETTER.name)}) for one in scored]

    def reference(self, prompt: Prompt) -> str:
        """Return the baseline's answer."""
        return self._set.of(prompt).output

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Say whose figures rest on letters, and that a regression is not the published one."""
        variant, said = self.variant, []
        if variant.said:
            said.append(f"The LC win rate is not comparable with published ones: {variant.said}, {variant.why}.")
        for name, one in methods.items():
            if share := one.value(LETTER.name):
                said.append(
                    f"{label_of(name)}: in {share:.1%} of the answers the judge gave no token probabilities; its letter "
                    "counts 0 or 100 there."
                )
        return said

    def read_answers(self, path: Path) -> dict[str, tuple[str, ...]] | None:
        """Return the answers of an outputs file to the instructions of this set."""
        return self._set.answers(path) if is_outputs(path) else None

    def field_files(self, name: str, scored: Sequence[ScoredAnswer]) -> dict[str, str]:
        """Return AlpacaEval's outputs file, and its annotations."""
        folder = f"results/{name}"
        return {
            f"{folder}/model_outputs.json": outputs_text(self._output(name, one) for one in scored),
            f"{folder}/{self._annotator}/annotations.json": outputs_text(self._annotation(name, one) for one in scored),
        }

    def _question(self, order: str, item: Output, text: str) -> TaskQuestion:
        switched = is_switched(item.instruction, self._order_seed) == (order == DRAWN)
        first, second = (text, item.output) if switched else (item.output, text)
        system, user = self._template.filled(item.instruction, first, second)
        question = Question(system, (user,), top_logprobs=self._top_logprobs, max_output_tokens=self._max_output_tokens)

        def read(answer: Answer) -> Mapping[str, float]:
            return read_preference(answer, switched)

        return TaskQuestion(order, question, read)

    def _scored(self, one: Answered) -> ScoredAnswer:
        item = self._set.of(one.prompt)
        same = one.text == item.output
        judged = [] if same else [judged_of(one.judged, order) for order in self._orders]
        about: dict[str, Any] = {
            "kind": "text prompts",
            "source": item.dataset,
            "notes": (TIED,) if same else (),
            "judgements": tuple(reply for of in judged for reply in of.replies),
        }
        if not all(of.values for of in judged):
            return unrated_answer(one, judged, **about)
        found = Comparison(
            item,
            one.text,
            [TIE] if same else [of.value(PREFERENCE) for of in judged],
            any(of.value(BY_LETTER) for of in judged),
        )
        place = self._set.places[one.prompt.id]
        columns = found.columns(place, self.variant.difficulties.get(place))
        return scored_answer(one, found.values(), columns=columns, **about)

    def _output(self, name: str, one: ScoredAnswer) -> dict[str, Any]:
        item = self._set.items[one.prompt_id]
        dataset = {"dataset": item.dataset} if item.dataset else {}
        return {**dataset, "instruction": item.instruction, "output": one.answer, "generator": name}

    def _annotation(self, name: str, one: ScoredAnswer) -> dict[str, Any]:
        item = self._set.items[one.prompt_id]
        return {
            "instruction": item.instruction,
            "output_1": item.output,
            "generator_1": item.generator or self._set.generator,
            "output_2": one.answer,
            "generator_2": name,
            "annotator": self._annotator,
            "preference": 1 + one.values[WIN] / 100 if one.values else None,
            "raw_completion": list(one.judgements),
        }
