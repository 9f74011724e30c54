"""LLaVA-Bench's files: questions, captions of the pictures, GPT-4's answers, and what the judge is told per category."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.sources import SourceFile, source_file
from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, by_key, first_file, is_dataset, task_lines

QUESTIONS, CAPTIONS, REFERENCES, RULES = "questions.jsonl", "context.jsonl", "answers_gpt4.jsonl", "rule.json"
PUBLISHED = {RULES: "dd7345a44ce9f7a24e51a30ee030cdab32346f9d08e3359c80545ff1312b1e07"}
"""SHA-256 of LLaVA's file at commit c121f04; of the benchmark's own files none is known here."""

INSTRUCTIONS = "You are a helpful and precise assistant for checking the quality of the answer."

Captions = Literal["as_published", "whole"]
"""How the judge reads a caption: as LLaVA's script sends it, which puts a line break between all its letters, or as it is."""


@dataclass(frozen=True)
class Rule:
    """What the judge is told in a category, and what it is to call those that answered."""

    role: str
    prompt: str


@dataclass(frozen=True)
class BenchQuestion:
    """One question.

    Args:
        key: as published, a number or a text.
        caption: of the picture, as the judge reads it.
        reference: GPT-4's answer, and its identifier.
    """

    key: Any
    image: Path
    text: str
    category: str
    caption: str
    reference: str
    reference_id: Any
    rule: Rule

    def message(self, answer: str) -> str:
        """Return what the judge is asked: GPT-4's answer is the first, the model's the second."""
        role = self.rule.role
        answers = "".join(
            f"[{role} {number}]\n{text}\n\n[End of {role} {number}]\n\n"
            for number, text in enumerate((self.reference, answer), start=1)
        )
        question = f"[Context]\n{self.caption}\n\n[Question]\n{self.text}\n\n"
        return f"{question}{answers}[System]\n{self.rule.prompt}\n\n"


@dataclass(frozen=True)
class Bench:
    """All questions by id."""

    questions: Mapping[str, BenchQuestion]
    sources: tuple[SourceFile, ...]


def read_bench(data: Path, rules: Path | None, captions: Captions, images: Path | None = None) -> Bench:
    """Read the benchmark.

    Args:
        data: a folder with ``questions.jsonl``, ``context.jsonl``, ``answers_gpt4.jsonl`` and ``images/``, or a dataset with the
            columns question_id, image, question, caption, gpt_answer, category.
        rules: LLaVA's ``llava/eval/table/rule.json``; None: in the folder.
        captions: how the judge reads them.
        images: where a dataset's images are put; None: the cache.

    Raises:
        UserError: a file is missing or broken; the message names file and line.
    """
    if is_dataset(data, QUESTIONS):
        return _from_dataset(data, rules, captions, images)
    paths = {name: first_file(data, (name,), name, "task.data") for name in (QUESTIONS, CAPTIONS, REFERENCES)}
    paths[RULES] = rules or first_file(data, (RULES,), "rules of LLaVA's evaluation", "task.rules")
    told = _rules(paths[RULES])
    shown = {key: _caption(line, captions) for key, line in by_key(task_lines(paths[CAPTIONS]), "image").items()}
    answers = by_key(task_lines(paths[REFERENCES]), "question_id")
    lines = by_key(task_lines(paths[QUESTIONS]), "question_id")
    questions = {key: _question(line, data, shown, answers, told) for key, line in lines.items()}
    return Bench(questions, tuple(source_file(path, PUBLISHED, name) for name, path in paths.items()))


def _from_dataset(data: Path, rules: Path | None, captions: Captions, images: Path | None) -> Bench:
    if rules is None:
        raise UserError(f"{data}: a dataset has no rules. Give LLaVA's llava/eval/table/rule.json: task.rules=...")
    told, lines = _rules(rules), by_key(task_lines(data, "train", images), "question_id")
    return Bench(
        {key: _stored(line, captions, told) for key, line in lines.items()}, (source_file(rules, PUBLISHED, RULES),)
    )


def _stored(line: TaskLine, captions: Captions, rules: Mapping[str, Rule]) -> BenchQuestion:
    key = line.fields["question_id"]
    return BenchQuestion(
        key=key,
        image=line.stored("image"),
        text=line.text("question"),
        category=line.text("category"),
        caption=_caption(line, captions),
        reference=line.text("gpt_answer"),
        reference_id=key,
        rule=_rule(line, rules),
    )


def _question(
    line: TaskLine,
    data: Path,
    captions: Mapping[str, str],
    answers: Mapping[str, TaskLine],
    rules: Mapping[str, Rule],
) -> BenchQuestion:
    key, image, category = line.key("question_id"), line.text("image"), line.text("category")
    for what, found in (("caption of its image in context.jsonl", image in captions), ("GPT-4 answer", key in answers)):
        if not found:
            raise line.wrong(f"question {key} has no {what}", "use the published files together.")
    reference = answers[key]
    return BenchQuestion(
        key=line.fields["question_id"],
        image=line.beside(image, data / "images"),
        text=line.text("text"),
        category=category,
        caption=captions[image],
        reference=reference.text("text"),
        reference_id=reference.fields.get("answer_id", reference.fields["question_id"]),
        rule=_rule(line, rules),
    )


def _rule(line: TaskLine, rules: Mapping[str, Rule]) -> Rule:
    category = line.text("category")
    if f"llava_bench_{category}" not in rules:
        raise line.wrong(f"no rule for category {category}", "give LLaVA's rule.json: task.rules=...")
    return rules[f"llava_bench_{category}"]


def _caption(line: TaskLine, captions: Captions) -> str:
    """Return a caption as the judge reads it: LLaVA's script joins a list of sentences, and a text letter by letter."""
    caption = line.fields.get("caption")
    if isinstance(caption, list):
        return "\n".join(line.texts("caption"))
    return "\n".join(line.text("caption")) if captions == "as_published" else line.text("caption")


def _rules(path: Path) -> dict[str, Rule]:
    try:
        whole: Any = json.loads(path.read_bytes())
        return {name: Rule(str(one["role"]), str(one["prompt"])) for name, one in whole.items()}
    except OSError:
        raise UserError(f"{path}: no such file. Give LLaVA's llava/eval/table/rule.json: task.rules=...") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not LLaVA's rule.json (role and prompt per category). Download it again.") from None
