"""FastChat's files of MT-Bench: a model's answers, in and out, and the judge's ratings, out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.tasks.mt_bench_data import MTBench, answer_turns, judge_message
from nemo_mm_align.evaluation.tasks.task_lines import task_lines

MISSING = -1
"""How FastChat writes a rating that could not be read; its tables leave such lines out."""


def read_answers(path: Path) -> dict[str, tuple[str, ...]] | None:
    """Return the answers by question id; None for a file that has no ``question_id`` and ``choices``.

    Raises:
        UserError: it has, and is broken, or answers a question twice.
    """
    try:
        first = next(task_lines(path))
    except UserError:  # not JSON: of another form
        return None
    return answer_turns(path) if {"question_id", "choices"} <= set(first.fields) else None


def answer_lines(name: str, scored: Iterable[ScoredAnswer], bench: MTBench) -> str:
    """Return a model's answers as ``model_answer/NAME.jsonl`` has them."""
    return _lines(_answer(name, one, bench) for one in scored)


def judgement_lines(name: str, scored: Iterable[ScoredAnswer], bench: MTBench, judge: str) -> str:
    """Return a model's ratings as ``model_judgment/JUDGE_single.jsonl`` has them, a missing one as `MISSING`."""
    return _lines(line for one in scored for line in _judgements(name, one, bench, judge))


def _answer(name: str, one: ScoredAnswer, bench: MTBench) -> dict[str, Any]:
    turns = [one.answer, *one.follow_up_answers]
    key = bench.questions[one.prompt_id].key
    digest = hashlib.sha256(json.dumps([name, key, turns]).encode()).hexdigest()[:22]
    choices = [{"index": 0, "turns": turns}]
    return {"question_id": key, "answer_id": digest, "model_id": name, "choices": choices, "tstamp": time.time()}


def _judgements(name: str, one: ScoredAnswer, bench: MTBench, judge: str) -> Iterator[dict[str, Any]]:
    question, answers = bench.questions[one.prompt_id], (one.answer, *one.follow_up_answers)
    for turn in range(1, min(len(question.turns), len(answers)) + 1):
        said: Sequence[str] = one.judgements[turn - 1 : turn]
        yield {
            "question_id": question.key,
            "model": name,
            "judge": [judge, bench.prompt_for(question, turn).name],
            "user_prompt": judge_message(bench, question, answers, turn)[1],
            "judgment": said[0] if said else "",
            "score": _plain(one.values.get(f"turn_{turn}", MISSING)),
            "turn": turn,
            "tstamp": time.time(),
        }


def _plain(value: float) -> float:
    """Return a whole number as one, as FastChat writes it."""
    return int(value) if value == int(value) else value


def _lines(values: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
