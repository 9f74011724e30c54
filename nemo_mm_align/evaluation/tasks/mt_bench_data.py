"""MT-Bench's files as FastChat lays them out: questions, reference answers, the judge's prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.sources import SourceFile, source_file
from nemo_mm_align.evaluation.tasks.judge_texts import fields_of, fill
from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, by_key, first_file, task_lines

QUESTIONS, PROMPTS, REFERENCES = "question.jsonl", "judge_prompts.jsonl", "reference_answer/gpt-4.jsonl"
PUBLISHED = {
    QUESTIONS: "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
    PROMPTS: "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
    REFERENCES: "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
}
"""SHA-256 of FastChat's files at commit 0e6d3e4."""

WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose judge is shown a reference answer."""

WRONG_REFERENCES = frozenset(
    ("104", "105", "109", "111", "113", "114", "120", "122", "124", "125", "126", "128", "130")
)
"""Questions whose published reference answer is wrong (FastChat, pull request 3158)."""

_FIELDS = ("question", "answer", "question_1", "question_2", "answer_1", "answer_2", "ref_answer_1", "ref_answer_2")


@dataclass(frozen=True)
class MTQuestion:
    """One question.

    Args:
        key: as published, a number or a text.
        turns: what is asked, one or two.
        references: the reference answers, one per turn; empty where none is shown.
    """

    key: Any
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class JudgePrompt:
    """How the judge is asked: its system turn and the user's, with places for question and answer."""

    name: str
    system: str
    template: str


@dataclass(frozen=True)
class MTBench:
    """All that is asked of models and judges, by question id and by name of the judge's prompt."""

    questions: Mapping[str, MTQuestion]
    prompts: Mapping[str, JudgePrompt]
    sources: tuple[SourceFile, ...]

    @cached_property
    def wrong_references(self) -> tuple[str, ...]:
        """The questions whose judge is shown a reference that is known to be wrong: those of the published file."""
        published = any(source.published for source in self.sources if source.name == REFERENCES)
        shown = [key for key, one in self.questions.items() if one.references and key in WRONG_REFERENCES]
        return tuple(shown) if published else ()

    def prompt_for(self, question: MTQuestion, turn: int) -> JudgePrompt:
        """Return the prompt that judges a turn (1 or 2) of a question."""
        return self.prompts[prompt_name(question.category, turn)]


def prompt_name(category: str, turn: int) -> str:
    """Return the name of the prompt for single-answer grading of a category's turn."""
    return f"single{'-math' if category in WITH_REFERENCE else ''}-v1{'-multi-turn' if turn == 2 else ''}"


def judge_message(bench: MTBench, question: MTQuestion, answers: Sequence[str], turn: int) -> tuple[str, str]:
    """Return the system turn and the user's that ask for the rating of a turn (1 or 2)."""
    asked = bench.prompt_for(question, turn)
    values = {"question": question.turns[0], "answer": answers[0]}
    for number, (text, answer) in enumerate(zip(question.turns, answers, strict=False), start=1):
        values |= {f"question_{number}": text, f"answer_{number}": answer}
    values |= {f"ref_answer_{number}": text for number, text in enumerate(question.references, start=1)}
    return asked.system, fill(asked.template, values, doubled=True)


def read_mt_bench(data: Path, prompts: Path | None = None, references: Path | None = None) -> MTBench:
    """Read a folder with FastChat's files.

    Args:
        data: ``data/mt_bench``, or a folder with all files side by side.
        prompts: the judge's prompts, if they are neither there nor one folder above.
        references: the reference answers, if they lie elsewhere.

    Raises:
        UserError: a file is missing or broken; the message names file and line.
    """
    asked = first_file(data, (QUESTIONS,), "questions", "task.data")
    how = prompts or first_file(data, (PROMPTS, f"../{PROMPTS}"), "judge prompts", "task.judge_prompts")
    told = references or first_file(
        data, (REFERENCES, "reference_answer.jsonl"), "reference answers", "task.references"
    )
    paths = {QUESTIONS: asked, PROMPTS: how, REFERENCES: told}
    sources = tuple(source_file(path, PUBLISHED, name) for name, path in paths.items())
    answers = {key: _turns(line) for key, line in by_key(task_lines(told), "question_id").items()}
    questions = {key: _question(line, answers) for key, line in by_key(task_lines(asked), "question_id").items()}
    return MTBench(questions, _prompts(how, questions), sources)


def _question(line: TaskLine, references: Mapping[str, tuple[str, ...]]) -> MTQuestion:
    key, category, turns = line.key("question_id"), line.text("category"), line.texts("turns")
    if len(turns) > 2:
        raise line.wrong(f"{len(turns)} turns", "judge prompts are for one or two: split the question.")
    if category not in WITH_REFERENCE:
        return MTQuestion(line.fields["question_id"], category, turns)
    if len(references.get(key, ())) < len(turns):
        raise line.wrong(f"question {key} is of {category} and lacks reference answers", "add them to the references.")
    return MTQuestion(line.fields["question_id"], category, turns, references[key][: len(turns)])


def _turns(line: TaskLine) -> tuple[str, ...]:
    """Return the turns of the first choice of a line of answers."""
    choices = line.fields.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise line.wrong("choices is missing", 'write "choices": [{"index": 0, "turns": ["...", "..."]}].')
    return TaskLine(line.path, line.number, choices[0]).texts("turns")


def answer_turns(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the answers of a file of FastChat's, the first choice of each, by question id.

    Raises:
        UserError: a line is broken, or a question is answered twice.
    """
    return {key: _turns(line) for key, line in by_key(task_lines(path), "question_id").items()}


def _prompts(path: Path, questions: Mapping[str, MTQuestion]) -> dict[str, JudgePrompt]:
    """Return the prompts that the questions need."""
    lines = by_key((line for line in task_lines(path) if line.fields.get("type") == "single"), "name")
    wanted = {prompt_name(one.category, turn) for one in questions.values() for turn in range(1, len(one.turns) + 1)}
    if missing := sorted(wanted - set(lines)):
        raise UserError(
            f"{path}: no prompt called {', '.join(missing)}. Give the published file: task.judge_prompts=..."
        )
    return {name: _prompt(name, lines[name]) for name in sorted(wanted)}


def _prompt(name: str, line: TaskLine) -> JudgePrompt:
    if line.fields.get("output_format") != "[[rating]]":
        raise line.wrong(
            f"{name} does not ask for [[rating]]", 'single-answer grading has "output_format": "[[rating]]".'
        )
    template = line.text("prompt_template")
    suffix = "_2" if name.endswith("multi-turn") else ""
    fields = fields_of(template, _known_fields(name), f"{line.path}:{line.number}: prompt_template of {name}")
    if missing := sorted({f"question{suffix}", f"answer{suffix}"} - fields):
        raise line.wrong(f"prompt_template of {name} has no place for {{{missing[0]}}}", "give the published file.")
    return JudgePrompt(name, line.text("system_prompt"), template)


def _known_fields(name: str) -> tuple[str, ...]:
    """Return what a prompt can be told: references by those of the categories that have some."""
    several, told = name.endswith("multi-turn"), "-math" in name
    return tuple(
        field
        for field in _FIELDS
        if (field.startswith("ref_") and told and (several or field.endswith("_1")))
        or (not field.startswith("ref_") and ("_" in field) == several)
    )
