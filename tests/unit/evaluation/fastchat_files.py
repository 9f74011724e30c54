"""A small folder of FastChat's form, written by hand: three questions, one of them of math."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SINGLE = '[Instruction]\nRate from 1 to 10: "[[rating]]".\n\n[Question]\n{question}\n\n[Answer]\n{answer}\n[End]'
MATH = SINGLE.replace("[Answer]", "[Reference]\n{ref_answer_1}\n\n[Answer]")
TURNS = "User: {question_1}\nA: {answer_1}\nUser: {question_2}\nA: {answer_2}"
MATH_TURNS = "R1: {ref_answer_1}\nR2: {ref_answer_2}\n" + TURNS
PROMPTS = {
    "single-v1": ("You are a helpful assistant.", SINGLE),
    "single-math-v1": ("You are a helpful assistant.", MATH),
    "single-v1-multi-turn": ('Focus on the second turn. Rate as "[[rating]]".', TURNS),
    "single-math-v1-multi-turn": ('Compare with the reference. Rate as "[[rating]]".', MATH_TURNS),
}
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write {a} poem.", "Shorten it."]},
    {"question_id": 111, "category": "math", "turns": ["1 + 1?", "Times 3?"], "reference": ["2", "6"]},
    {"question_id": 141, "category": "stem", "turns": ["What is DNA?", "And RNA?"]},
]
ANSWERS = {81: ["A rose {question}", "Rose."], 111: ["2", "6"], 141: ["An acid.", ""]}


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def answers(turns: dict[Any, list[str]], model: str = "m") -> list[dict[str, Any]]:
    return [
        {
            "question_id": key,
            "answer_id": "x",
            "model_id": model,
            "choices": [{"index": 0, "turns": texts}],
            "tstamp": 1.0,
        }
        for key, texts in turns.items()
    ]


def judge_prompts() -> list[dict[str, Any]]:
    pairwise = {"name": "pair-v2", "type": "pairwise", "system_prompt": "", "prompt_template": "{answer_a}"}
    return [
        {**pairwise, "output_format": "[[A]]"},
        *(
            {
                "name": name,
                "type": "single",
                "system_prompt": system,
                "prompt_template": text,
                "output_format": "[[rating]]",
            }
            for name, (system, text) in PROMPTS.items()
        ),
    ]


def write_mt_bench(folder: Path) -> Path:
    """Write ``data/mt_bench`` and ``data/judge_prompts.jsonl``; return the former."""
    data = folder / "data/mt_bench"
    write_lines(data / "question.jsonl", QUESTIONS)
    write_lines(data / "reference_answer/gpt-4.jsonl", answers({111: ["It is 2.", "It is 6."]}))
    write_lines(folder / "data/judge_prompts.jsonl", judge_prompts())
    return data
