"""MMBench's questions, with their options turned around."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.image_store import store_data_url
from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, by_key, task_lines

LETTERS = ("A", "B", "C", "D")
TURN = 1_000_000
"""Between a question's index and that of the same question with its options turned once more: the field's files count so."""

REFERENCE_CHARACTERS = 64
"""An ``image`` no longer than this is the index of the row that holds the picture, as VLMEvalKit has it."""

PATH_CHARACTERS = 1024
DELIMITERS = {".tsv": "\t", ".csv": ","}


@dataclass(frozen=True)
class MMBenchQuestion:
    """One question with its options in one order.

    Args:
        index: as the sheets call it; the remainder by `TURN` is that of the question.
        options: texts by letters.
        answer: the right letter; "" where the data do not say (the test split).
        image: where the picture lies; "" until it is known.
    """

    index: int
    question: str
    hint: str
    options: Mapping[str, str]
    answer: str
    category: str
    l2_category: str
    split: str
    image: str = ""

    @property
    def base(self) -> int:
        """Index of the question, however its options are turned."""
        return self.index % TURN

    def turned(self, times: int) -> MMBenchQuestion:
        """Return the question with its options moved up as many places, the first ones behind the last."""
        letters, texts = list(self.options), list(self.options.values())
        options = dict(zip(letters, texts[times:] + texts[:times], strict=True))
        answer = letters[(letters.index(self.answer) - times) % len(letters)] if self.answer else ""
        return replace(self, index=self.index + TURN * times, options=options, answer=answer)


def read_mmbench(data: str, split: str, circular: bool, cache: Path) -> list[MMBenchQuestion]:
    """Return the questions; where `circular`, each as often as it has options, turned by one more each time.

    Args:
        data: TSV, CSV or JSONL file with ``index, question, hint, A, B, C, D, answer, category, l2-category, image, split``, or a
            dataset's name.
        split: of a dataset; of a file, the rows to keep where they have the field and `split` is not "".
        circular: false leaves one row per question. Rows that the data hold turned already are taken as they are.
        cache: folder for the pictures.

    Raises:
        UserError: no data, or a record that lacks something, with file and line.
    """
    lines = by_key(_lines(Path(data), split, cache), "index")
    found = {one.index: one for one in (_question(line) for line in lines.values())}
    if unknown := next((one for one in found.values() if one.base not in found), None):
        raise UserError(f"{data}: index {unknown.index} is question {unknown.base} turned, which is not there. Add it.")
    placed = [replace(one, image=_picture(lines[str(index)], lines)) for index, one in found.items()]
    turned = any(one.index != one.base for one in placed)
    if not circular:
        return [one for one in placed if one.index == one.base]
    return placed if turned else [one.turned(times) for one in placed for times in range(len(one.options))]


def _lines(path: Path, split: str, cache: Path) -> Iterator[TaskLine]:
    table = path.is_file() and path.suffix.lower() in DELIMITERS
    lines = read_table(path) if table else task_lines(path, split or "test", cache)
    for line in lines:
        if not split or not path.is_file() or str(line.fields.get("split") or split) == split:
            yield _with_stored_picture(line, cache)


def read_table(path: Path) -> Iterator[TaskLine]:
    """Yield the rows of a TSV or CSV file; a row's number is that of its last line."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a picture in a cell
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=DELIMITERS[path.suffix.lower()])
        for row in reader:
            yield TaskLine(path, reader.line_num, {key: value for key, value in row.items() if key is not None})


def _question(line: TaskLine) -> MMBenchQuestion:
    options: dict[str, str] = {}
    for letter in LETTERS:
        if _empty(line.fields.get(letter)):
            break  # as LLaVA does: options are those before the first empty one
        options[letter] = str(line.fields[letter])
    answer = "" if _empty(line.fields.get("answer")) else str(line.fields["answer"]).strip()
    if len(options) < 2 or (answer and answer not in options):
        raise line.wrong(f"answer {answer!r} among the options {', '.join(options) or 'none'}", "write A, B and so on.")
    fields = {"l2-category": line.fields.get("L2-category"), **line.fields}  # lmms-lab/MMBench_EN writes it so
    texts = {
        name: "" if _empty(fields.get(name)) else str(fields[name])
        for name in ("hint", "category", "l2-category", "split")
    }
    return MMBenchQuestion(
        _index(line),
        line.text("question"),
        texts["hint"],
        options,
        answer,
        texts["category"],
        texts["l2-category"],
        texts["split"],
    )


def _index(line: TaskLine) -> int:
    try:
        return int(line.key("index"))
    except ValueError:
        raise line.wrong(f"index {line.fields['index']!r} is no whole number", "number the questions.") from None


def _empty(value: Any) -> bool:
    """Whether a cell is empty, as pandas reads the published file: ``nan`` and ``None`` are too."""
    return value is None or value != value or str(value).strip().lower() in ("", "nan", "none")


def _picture(line: TaskLine, lines: Mapping[str, TaskLine]) -> str:
    """Return the file of a row's picture, which is the row's own or that of the row whose index it names."""
    value = line.fields.get("image")
    if not isinstance(value, Path) and str(value) in lines:
        value = lines[str(value)].fields.get("image")
    if not isinstance(value, Path):
        raise line.wrong("image is missing", "write the picture as base64, or the index of the row that has it.")
    return str(value.absolute())


def _with_stored_picture(line: TaskLine, cache: Path) -> TaskLine:
    """Return a row with its picture as a file: a table of thousands of them is not to be held in memory."""
    value = line.fields.get("image")
    if _empty(value) or isinstance(value, Path):
        return line
    text = str(value)
    if len(text) <= PATH_CHARACTERS and (line.path.parent / text).is_file():
        path = line.path.parent / text
    elif len(text) <= REFERENCE_CHARACTERS:
        return line
    else:
        try:
            path = store_data_url(f"data:image/*;base64,{text}", cache)
        except UserError as error:
            raise line.wrong(str(error).rstrip(".")) from None
    return TaskLine(line.path, line.number, {**line.fields, "image": path})
