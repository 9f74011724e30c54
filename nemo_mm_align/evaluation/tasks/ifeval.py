"""IFEval: instructions whose following a program can check; what is left of a model's ability with text."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from nemo_mm_align.core.errors import UserError, shorten, suggestion
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.sources import SourceFile, source_file
from nemo_mm_align.evaluation.statistics import Statistic, ratio
from nemo_mm_align.evaluation.tasks.ifeval_checkers import TYPES, Followed, Instructions, check_answer
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, by_key, task_lines
from nemo_mm_align.evaluation.tasks.unjudged import image_prompt, no_answer, scored_by_rule, truth_of
from nemo_mm_align.schema.records import Decoding, Prompt

log = logging.getLogger(__name__)

FILE = "input_data.jsonl"
PUBLISHED = {FILE: "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49"}
"""SHA-256 of instruction_following_eval/data/input_data.jsonl of github.com/google-research/google-research, 541 prompts."""

PROMPT_STRICT = Measure(
    name="prompt_strict",
    label="Prompts, strict",
    share=True,
    digits=3,
    about="Prompts, strict: answers that follow every instruction of their prompt.",
)
PROMPT_LOOSE = Measure(
    name="prompt_loose",
    label="Prompts, loose",
    share=True,
    digits=3,
    about="Loose: without asterisks, first or last line an answer counts as well.",
)
INSTRUCTION_STRICT = Measure(
    name="instruction_strict",
    label="Instructions, strict",
    digits=3,
    about="Instructions: those that are followed, of all instructions of all prompts.",
)
INSTRUCTION_LOOSE = Measure(name="instruction_loose", label="Instructions, loose", digits=3)
TYPE_STRICT = Measure(name="type_strict", label="By instruction, strict", digits=3, grouped=True)
TYPE_LOOSE = Measure(name="type_loose", label="By instruction, loose", digits=3, grouped=True)


class IFEvalTask:
    """Scores answers by the checkers of lm-evaluation-harness (the extra nemo_mm_align[ifeval]); nobody is asked.

    Definition: github.com/google-research/google-research, instruction_following_eval/evaluation_lib.py, commit 4c42994; checkers
    and decoding: lm_eval 0.4.13, lm_eval/tasks/ifeval.

    Args:
        data: ``input_data.jsonl``, the folder that holds it, or a dataset's name (``google/IFEval``).
        split: of a dataset.
        max_new_tokens: of each answer, decoded greedily.
    """

    name = "ifeval"
    answer_form = "IFEval's responses (prompt, response)"
    measures = (PROMPT_STRICT, PROMPT_LOOSE, INSTRUCTION_STRICT, INSTRUCTION_LOOSE, TYPE_STRICT, TYPE_LOOSE)

    def __init__(self, data: str, split: str = "train", max_new_tokens: int = 1280) -> None:
        folder = Path(data)
        self._data, self._split = folder / FILE if (folder / FILE).is_file() else folder, split
        self._decoding = Decoding(temperature=0, max_new_tokens=max_new_tokens)
        self._all: list[Instructions] | None = None
        self.statistics = _statistics()
        if find_spec("lm_eval") is None:
            log.warning(
                "task ifeval: scoring needs the extra nemo_mm_align[ifeval], not installed here; generating does without."
            )

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The prompts' file."""
        return (source_file(self._data, PUBLISHED),) if self._data.is_file() else ()

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the prompts, which have no pictures."""
        return [self._prompt(one) for one in self._instructions()]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Check every instruction of every answer."""
        return [self._scored(one) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Return the kinds of instructions that are to be followed."""
        return ", ".join((prompt.metadata.get(self.name) or {}).get("instruction_id_list", ()))

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Nothing that could mislead."""
        return []

    def read_answers(self, path: Path) -> dict[str, tuple[str, ...]] | None:
        """Read IFEval's ``{prompt, response}``, whose prompts stand there in full.

        Raises:
            UserError: a prompt that is none of the data's, or answered twice.
        """
        if not _is_responses(path):
            return None
        keys = {one.prompt: str(one.key) for one in self._instructions()}
        found: dict[str, tuple[str, ...]] = {}
        for line in task_lines(path):
            prompt = line.text("prompt")
            if prompt not in keys:
                raise line.wrong(
                    f"prompt {shorten(prompt, 60)!r} is none of {self._data}", "give the data that were answered."
                )
            if keys[prompt] in found:
                raise line.wrong(f"prompt {keys[prompt]} is answered twice", "keep one of the two.")
            found[keys[prompt]] = (line.text("response"),)
        return found

    def field_files(self, name: str, scored: Sequence[ScoredAnswer]) -> dict[str, str]:
        """Write IFEval's file of responses."""
        answers = {one.prompt_id: one.answer for one in scored if not one.failed}
        records = (
            {"prompt": one.prompt, "response": answers[str(one.key)]}
            for one in self._instructions()
            if str(one.key) in answers
        )
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        return {f"input_response_data_{name}.jsonl": text}

    def _instructions(self) -> list[Instructions]:
        if self._all is None:
            self._all = [_read(line) for line in by_key(task_lines(self._data, self._split), "key").values()]
        return self._all

    def _prompt(self, one: Instructions) -> Prompt:
        truth = {
            "prompt": one.prompt,
            "instruction_id_list": list(one.instruction_id_list),
            "kwargs": [dict(arguments) for arguments in one.kwargs],
        }
        source = one.instruction_id_list[0].partition(":")[0]
        return image_prompt(str(one.key), one.prompt, None, self._decoding, {self.name: truth, "source": source})

    def _scored(self, one: Answered) -> ScoredAnswer:
        truth = truth_of(one.prompt, self.name, self.name)
        instructions = Instructions(one.prompt.id, truth["prompt"], truth["instruction_id_list"], truth["kwargs"])
        if one.failure or no_answer(one.text):
            return scored_by_rule(one, {})
        followed = check_answer(instructions, one.text)
        values = {
            PROMPT_STRICT.name: float(all(followed.strict)),
            PROMPT_LOOSE.name: float(all(followed.loose)),
        }
        return scored_by_rule(
            one, values, columns=_columns(instructions, followed), notes=_notes(instructions, followed)
        )


def _columns(instructions: Instructions, followed: Followed) -> dict[str, float]:
    """Return how many instructions an answer was given and follows: all, and of each type that it was given."""
    types = instructions.instruction_id_list
    columns = {"instructions": len(types), "strict": sum(followed.strict), "loose": sum(followed.loose)}
    columns |= {f"instructions.{name}": count for name, count in Counter(types).items()}
    for kind, kept in (("strict", followed.strict), ("loose", followed.loose)):
        for name, one in zip(types, kept, strict=True):
            columns[f"{kind}.{name}"] = columns.get(f"{kind}.{name}", 0) + one
    return {name: float(value) for name, value in columns.items()}


def _notes(instructions: Instructions, followed: Followed) -> tuple[str, ...]:
    missed = [name for name, kept in zip(instructions.instruction_id_list, followed.strict, strict=True) if not kept]
    return (f"Does not follow {', '.join(missed)}.",) if missed else ()


def _statistics() -> tuple[Statistic, ...]:
    def of(measure: Measure, kind: str, name: str = "") -> Statistic:
        columns = (f"{kind}{name}", f"instructions{name}")
        return Statistic(f"{measure.name}{name}", columns, ratio(*columns))

    whole = (of(INSTRUCTION_STRICT, "strict"), of(INSTRUCTION_LOOSE, "loose"))
    parts = (
        of(measure, kind, f".{name}")
        for name in TYPES
        for measure, kind in ((TYPE_STRICT, "strict"), (TYPE_LOOSE, "loose"))
    )
    return (*whole, *parts)


def _read(line: TaskLine) -> Instructions:
    types, arguments = line.texts("instruction_id_list"), line.fields.get("kwargs")
    if unknown := next((name for name in types if name not in TYPES), None):
        raise line.wrong(f"instruction {unknown!r} is unknown.{suggestion(unknown, TYPES)}")
    if (
        not isinstance(arguments, list)
        or len(arguments) != len(types)
        or not all(isinstance(one, dict) for one in arguments)
    ):
        raise line.wrong("kwargs is no list of objects, one for each instruction")
    try:
        key = int(line.key("key"))
    except ValueError:
        raise line.wrong("key is no whole number", "give the published data.") from None
    kept = [{name: value for name, value in one.items() if value is not None} for one in arguments]
    return Instructions(key, line.text("prompt"), types, kept)


def _is_responses(path: Path) -> bool:
    try:
        first = next(task_lines(path)).fields
    except UserError:  # no records: of another form
        return False
    return {"prompt", "response"} <= set(first)
