"""MM-Vet's questions, and the prompt that its evaluator ships inside its own code."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.sources import SourceFile
from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, by_key, first_file, is_dataset, task_lines

QUESTIONS = "mm-vet.json"
PROMPT_SHA256 = "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"
"""Of the prompt's text in mm-vet_evaluator.py and mm-vet_evaluator.ipynb at commit acde843."""


@dataclass(frozen=True)
class MMVetQuestion:
    """One question.

    Args:
        image: the picture's file.
        answer: the ground truth, alternatives joined by ``<OR>``, parts by ``<AND>``.
        capabilities: what it takes (rec, ocr, know, gen, spat, math), sorted.
    """

    image: Path
    question: str
    answer: str
    capabilities: tuple[str, ...]

    @property
    def combination(self) -> str:
        """The capabilities as one name."""
        return "_".join(self.capabilities)

    def row(self, prediction: str) -> str:
        """Return the row of the judge's table, up to the place of the number."""
        truth = self.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        return " | ".join((self.question, truth, prediction, ""))


def questions_file(data: str) -> Path | None:
    """Return the file of questions; None where `data` names a dataset."""
    path = Path(data)
    if path.suffix == ".json":
        return path
    return None if is_dataset(path, QUESTIONS) else first_file(path, (QUESTIONS,), "questions", "task.data")


def read_questions(data: str, images: Path | None) -> dict[str, MMVetQuestion]:
    """Return the questions by id.

    Args:
        data: a folder with ``mm-vet.json`` and ``images/``, that file, or a dataset (name, folder or parquet file) with the
            columns question_id, image, question, answer, capability.
        images: where a dataset's images are put; None: the cache.

    Raises:
        UserError: no such source, or a question that lacks something.
    """
    path = questions_file(data)
    if path is None:
        rows = by_key(task_lines(Path(data), cache=images), "question_id")
        return {key: _question(line, line.stored("image")) for key, line in rows.items()}
    return {
        key: _question(line, line.beside(line.text("imagename"), path.parent / "images"))
        for key, line in _published(path).items()
    }


def read_examples(path: Path) -> tuple[str, SourceFile]:
    """Return the text of the judge's prompt, which ends with a line break, and where it is from.

    Args:
        path: the evaluator (``mm-vet_evaluator.py`` or ``.ipynb``), whose string ``prompt`` is taken without running anything,
            or a text file that holds the prompt alone.

    Raises:
        UserError: no such file, or an evaluator without the prompt.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Give MM-Vet's evaluator (mm-vet_evaluator.py or .ipynb), which holds the judge's prompt, or "
            "a text file with that prompt: task.examples=..."
        )
    text = path.read_text("utf-8")
    if path.suffix in (".py", ".ipynb"):
        found = next((one for code in _code(path, text) for one in _prompts(code)), None)
        if found is None:
            raise UserError(f'{path}: no prompt = """...""" in it. Give MM-Vet\'s evaluator: task.examples=...')
        text = found
    text = text.rstrip("\n") + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text, SourceFile("the judge's prompt", str(path), digest, digest == PROMPT_SHA256)


def _published(path: Path) -> dict[str, TaskLine]:
    """Return the records of ``mm-vet.json``: one object, a record per id."""
    try:
        whole: Any = json.loads(path.read_bytes())
    except OSError:
        raise UserError(f"{path}: no such file. Give the folder of mm-vet.json: task.data=...") from None
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error}). Download it again.") from None
    if not isinstance(whole, dict) or not all(isinstance(one, dict) for one in whole.values()):
        raise UserError(f"{path}: not MM-Vet's form, an object with one record per id. Give mm-vet.json.")
    return {key: TaskLine(path, number, one) for number, (key, one) in enumerate(whole.items(), start=1)}


def _question(line: TaskLine, image: Path) -> MMVetQuestion:
    found = line.fields.get("capability")
    names = found.split(",") if isinstance(found, str) else line.texts("capability")
    capabilities = tuple(sorted({name.strip() for name in names}))
    return MMVetQuestion(image, line.text("question"), line.text("answer"), capabilities)


def _code(path: Path, text: str) -> Iterator[str]:
    """Yield the Python of a script, or of a notebook's cells."""
    if path.suffix == ".py":
        yield text
        return
    try:
        cells = json.loads(text)["cells"]
        yield from ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a notebook. Download it again.") from None


def _prompts(code: str) -> Iterator[str]:
    """Yield the strings that a module gives to ``prompt``."""
    try:
        body = ast.parse(code).body
    except SyntaxError:  # a notebook's own commands
        return
    for statement in body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            if "prompt" in names and isinstance(statement.value.value, str):
                yield statement.value.value
