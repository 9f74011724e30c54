"""The files of MM-Vet's evaluator: a model's answers, in and out, and its grades, out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judging import Read
from nemo_mm_align.evaluation.sources import SourceFile, source_file
from nemo_mm_align.evaluation.tasks.llava_files import is_llava, llava_answers
from nemo_mm_align.evaluation.tasks.mm_vet_data import questions_file
from nemo_mm_align.evaluation.tasks.ratings import RATING
from nemo_mm_align.llm.question import Answer

PREFIX = "v1_"


def question_sources(data: str) -> tuple[SourceFile, ...]:
    """Return the file of questions; nothing for a dataset."""
    path = questions_file(data)
    return () if path is None else (source_file(path),)


def read_answers(path: Path) -> dict[str, tuple[str, ...]] | None:
    """Return the answers of ``results/MODEL.json`` (an object of texts by id) or of LLaVA's JSONL; None for other files.

    Raises:
        UserError: a line of LLaVA's is broken, or a question is answered twice.
    """
    if is_llava(path):
        found = llava_answers(path)
        return {key if key.startswith(PREFIX) else PREFIX + key: texts for key, texts in found.items()}
    try:
        whole: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Give a file of answers.") from None
    except ValueError:
        return None
    if not isinstance(whole, dict) or not whole or not all(isinstance(one, str) for one in whole.values()):
        return None
    return {key: (text,) for key, text in whole.items()}


def field_files(name: str, scored: Sequence[ScoredAnswer], judge: str, read: Read) -> dict[str, str]:
    """Return answers and grades. An answer that nobody rated stands in the first alone: the evaluator asks for it again."""
    answers = {one.prompt_id: one.answer for one in scored}
    grades = {one.prompt_id: _grade(one, judge, read) for one in scored if one.values}
    runs = max((len(one["score"]) for one in grades.values()), default=1)
    return {
        f"results/{name}.json": json.dumps(answers, indent=2, ensure_ascii=False) + "\n",
        f"results/{name}_{judge}-grade-{runs}runs.json": json.dumps(grades, indent=4, ensure_ascii=False) + "\n",
    }


def _grade(one: ScoredAnswer, judge: str, read: Read) -> dict[str, list[Any]]:
    scores = [read(Answer(text=text))[RATING] for text in one.judgements]
    return {"model": [judge] * len(scores), "content": list(one.judgements), "score": scores}
