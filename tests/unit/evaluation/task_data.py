"""Small data of every task in the layout in which it is published, written by hand; MT-Bench's is in `fastchat_files`."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.unit.evaluation.fastchat_files import write_lines

TABLE = "Score it.\n\nQuestion | Ground truth | Prediction | Correctness\n--- | --- | --- | ---\n1+1? | 2 | 3 | 0.0\n"
MM_VET = {
    "v1_0": {"imagename": "a.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
    "v1_1": {"imagename": "a.png", "question": "What is d?", "answer": "1.25<OR>5/4", "capability": ["math", "ocr"]},
    "v1_2": {"imagename": "b.png", "question": "Who | is it?", "answer": "a dog", "capability": ["rec"]},
}

RULE = "Rate both. The two scores are separated by a space."
LLAVA_RULES = {f"llava_bench_{name}": {"role": "Assistant", "prompt": RULE} for name in ("conv", "detail")}
LLAVA_BENCH = [
    {"question_id": 0, "image": "001.jpg", "category": "conv", "text": "Where is it?"},
    {"question_id": 1, "image": "001.jpg", "category": "detail", "text": "Describe it."},
    {"question_id": 2, "image": "002.jpg", "category": "conv", "text": "What is it?"},
]
CAPTIONS = [
    {"id": "001", "image": "001.jpg", "caption": "A bay."},
    {"id": "002", "image": "002.jpg", "caption": ["A", "b"]},
]

ALPACA_TEMPLATE = """<|im_start|>system
You compare.
<|im_end|>
<|im_start|>user
Asked: {instruction}
m: {output_1}
M: {output_2}
<|im_end|>"""
ALPACA_ROWS = [
    {"dataset": "koala", "instruction": f"Say {n} words.", "output": "word " * n, "generator": "gpt4"}
    for n in range(1, 7)
]

POPE_SPLITS = ("random", "popular", "adversarial")
POPE_LABELS = ("yes", "no", "yes", "no")

MMBENCH_HEAD = (
    "index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "image", "split",
)  # fmt: skip
MMBENCH_ROWS = (
    (0, "Which colour?", "Look at\nthe sky.", "red", "blue", "green", "", "B", "colour", "perception"),
    (1, "What is it?", "", "cat", "dog", "", "", "A", "object", "perception"),
    (2, "Why?", "nan", "so", "not so", "", "", "B", "cause", "reasoning"),
)

PROBLEMS: dict[str, dict[str, Any]] = {
    "4": {
        "question": "Which is it?",
        "choices": ["a", "b"],
        "answer": 1,
        "hint": "",
        "image": "image.png",
        "subject": "natural science",
        "grade": "grade2",
    },
    "7": {
        "question": "And this?",
        "choices": ["c", "d", "e"],
        "answer": 0,
        "hint": "A text.",
        "image": "image.png",
        "subject": "social science",
        "grade": "grade6",
    },
    "9": {
        "question": "Say  it?",
        "choices": ["f", "g"],
        "answer": 0,
        "hint": "",
        "image": None,
        "subject": "language science",
        "grade": "grade7",
    },
    "11": {
        "question": "Other?",
        "choices": ["f", "g"],
        "answer": 0,
        "hint": "",
        "image": None,
        "subject": "natural science",
        "grade": "grade1",
    },
}

OWN_ROWS: tuple[dict[str, Any], ...] = (
    {"id": "q1", "question": "How many?", "answer": ["two", "2"], "category": "numbers", "group": "picture-1"},
    {
        "question": "What colour?",
        "answer": "dark blue",
        "scoring": "contains",
        "image": "sky.png",
        "category": "colours",
    },
    {"question": "Which?", "answer": "dog", "choices": ["cat", "dog"], "scoring": "choice"},
    {
        "id": "whole",
        "turns": [{"role": "user", "content": "Say 1.5"}],
        "metadata": {"answer": 1.5},
        "decoding": {"temperature": 0.7},
    },
)

RUBRIC = 'Rate from 1 to 5, as {"score": 3}.\nQ: {question}\nA: {answer}\nTruth: {reference}\n'
RUBRIC_ROWS = [
    {"id": 1, "question": "Which {colour}?", "image": "a.png", "reference": "red", "category": "colours", "group": "a"},
    {"id": "two", "question": "Why?", "reference": "because", "system": "Be brief."},
]


def write_images(folder: Path, *names: str) -> None:
    """Write small pictures, each of a colour of its own."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (40 * number % 256, 90, 10)).save(path)


def write_json(path: Path, content: Any) -> Path:
    """Write text as it is, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
    return path


def write_mm_vet(folder: Path) -> tuple[Path, Path]:
    """Write MM-Vet's folder, and beside it a text file with the judge's prompt; return both."""
    data = folder / "mm-vet"
    write_images(data / "images", "a.png", "b.png")
    write_json(data / "mm-vet.json", MM_VET)
    return data, write_json(folder / "prompt.txt", TABLE)


def write_llava_bench(folder: Path) -> Path:
    """Write questions, captions, GPT-4's answers, rules and pictures; return their folder."""
    write_lines(folder / "questions.jsonl", LLAVA_BENCH)
    write_lines(folder / "context.jsonl", CAPTIONS)
    theirs = [
        {"question_id": one["question_id"], "text": f"GPT {one['question_id']}", "answer_id": "g"}
        for one in LLAVA_BENCH
    ]
    write_lines(folder / "answers_gpt4.jsonl", theirs)
    write_json(folder / "rule.json", LLAVA_RULES)
    write_images(folder / "images", "001.jpg", "002.jpg")
    return folder


def write_alpaca_eval(folder: Path, rows: Sequence[Mapping[str, Any]] = ALPACA_ROWS) -> tuple[Path, Path]:
    """Write the baseline's answers and the judge's prompt; return both."""
    return write_json(folder / "baseline.json", rows), write_json(folder / "clf.txt", ALPACA_TEMPLATE)


def write_pope(folder: Path) -> Path:
    """Write POPE's three files and, beside them, the two pictures that they ask about; return their folder."""
    for split in POPE_SPLITS:
        records = [
            {
                "question_id": n + 1,
                "image": f"COCO_{n // 2}.jpg",
                "text": f"Is there a {split}{n} in the image?",
                "label": label,
            }
            for n, label in enumerate(POPE_LABELS)
        ]
        write_lines(folder / f"coco_pope_{split}.json", records)
    write_images(folder, "COCO_0.jpg", "COCO_1.jpg")
    return folder


def base64_picture(colour: tuple[int, int, int] = (9, 9, 9)) -> str:
    """A picture as MMBench's table holds it."""
    data = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def write_table(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    """Write rows under MMBench's columns, as its TSV or as CSV."""
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([MMBENCH_HEAD, *rows])
    return path


def write_mmbench(folder: Path) -> Path:
    """Write MMBench's table; return it."""
    rows = [(*row, base64_picture((int(row[0]), 0, 0)), "dev") for row in MMBENCH_ROWS]
    return write_table(folder / "mmbench_dev.tsv", rows)


def write_scienceqa(folder: Path) -> Path:
    """Write problems, splits and the pictures of the test split; return their folder."""
    write_json(folder / "problems.json", PROBLEMS)
    write_json(folder / "pid_splits.json", {"test": ["4", "7", "9"], "val": ["11"]})
    write_images(folder / "images/test", "4/image.png", "7/image.png")
    return folder


def at_least_once(word: str) -> dict[str, Any]:
    """Arguments of IFEval's instruction to use a word."""
    return {"keyword": word, "frequency": 1, "relation": "at least", "num_words": None}


def write_ifeval(folder: Path) -> Path:
    """Write ``input_data.jsonl``; return its folder."""
    rows = [
        (1, "No commas, a title.", ["punctuation:no_comma", "detectable_format:title"], [{}, {}]),
        (2, "Tea and coffee.", ["keywords:frequency"] * 2, [at_least_once("tea"), at_least_once("coffee")]),
        (30, "No commas.", ["punctuation:no_comma"], [{}]),
    ]
    fields = ("key", "prompt", "instruction_id_list", "kwargs")
    write_lines(folder / "input_data.jsonl", [dict(zip(fields, row, strict=True)) for row in rows])
    return folder


def write_own(folder: Path) -> Path:
    """Write questions whose answers are known; return the file."""
    write_images(folder, "sky.png")
    return write_lines(folder / "own.jsonl", OWN_ROWS)


def write_own_rubric(folder: Path, rubric: str = RUBRIC) -> tuple[Path, Path]:
    """Write questions and a rubric; return both files."""
    write_images(folder, "a.png")
    return write_lines(folder / "own.jsonl", RUBRIC_ROWS), write_json(folder / "rubric.txt", rubric)
