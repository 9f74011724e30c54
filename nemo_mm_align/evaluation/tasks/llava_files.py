"""LLaVA's JSONL of answers: ``{question_id, prompt, text, answer_id, model_id, metadata}``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.tasks.task_lines import by_key, task_lines


def is_llava(path: Path) -> bool:
    """Whether a file's first record is an answer of LLaVA's form."""
    try:
        first = next(task_lines(path)).fields
    except UserError:  # not records: of another form
        return False
    return "question_id" in first and "text" in first and "category" not in first


def llava_answers(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the answers by question id.

    Raises:
        UserError: a line is broken, or a question is answered twice.
    """
    return {key: (line.text("text"),) for key, line in by_key(task_lines(path), "question_id").items()}


def llava_answer(key: Any, prompt: str, text: str, model: str) -> dict[str, Any]:
    """Return one answer as a record."""
    return {
        "question_id": key,
        "prompt": prompt,
        "text": text,
        "answer_id": answer_id(model, key, text),
        "model_id": model,
        "metadata": {},
    }


def answer_id(model: str, key: Any, text: str) -> str:
    """Return an answer's identifier."""
    return hashlib.sha256(json.dumps([model, key, text]).encode()).hexdigest()[:22]
