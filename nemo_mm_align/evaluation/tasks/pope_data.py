"""POPE's questions, in the forms that they are passed around in."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.sources import SourceFile, source_file
from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, task_lines

log = logging.getLogger(__name__)

SPLITS = ("random", "popular", "adversarial")

PUBLISHED: Mapping[str, tuple[str, ...]] = {
    "random": (
        "c16b65d2df6d70bb0814c8a4375833d39cdb09928fd936d3fc546491efa37f35",  # commit e3e3926, 2,910 questions: LLaVA's
        "ac25245170b975a5bdf9080b23fd431dfe6be458bc038259c1f4f09a6bef7994",  # since commit edebdda, 3,000 questions
    ),
    "popular": (
        "5b16653023bf4f64d57eb0d168259de6627f5cde7538b85ebed3cc33034aa6cc",
        "72c1a8ad45d0c13514f5f22598261df41d3b533854d29682e924db50ed8aa753",
    ),
    "adversarial": (
        "1d8f0906a9b50c05640f6f23abfac97523be2a1bed28f7eadc63b811699b2d26",
        "420b3407db1fa9f1187a805dca41cb7b97fd91504e6c2179706188c107fb8ef8",
    ),
}
"""SHA-256 of output/coco/coco_pope_SPLIT.json of github.com/AoiDragon/POPE, at the commit that LLaVA names and at 109985c."""


@dataclass(frozen=True)
class PopeQuestion:
    """One question: `number` is its ``question_id``, `image` a file's name or path, `picture` the picture's name."""

    split: str
    number: str
    text: str
    label: str
    image: str
    picture: str

    @property
    def id(self) -> str:
        """Numbers begin anew in each split."""
        return f"{self.split}-{self.number}"


def read_pope(data: str, annotations: str | None, cache: Path | None) -> list[PopeQuestion]:
    """Return the questions in the order of the data.

    Args:
        data: a folder with ``*_pope_random.jsonl`` (``.json``) and so on; one such file; LLaVA's ``llava_pope_test.jsonl``; or
            a dataset's name (``lmms-lab/POPE``).
        annotations: the folder of labels, for LLaVA's file, which has none.
        cache: folder for images that lie inside a dataset.

    Raises:
        UserError: no data, or a record that lacks something, with file and line; or a question that stands twice.
    """
    files = split_files(Path(data))
    if missing := set(SPLITS) - set(files) if files else ():
        log.warning(
            "%s: no questions of %s; the mean F1 is one of the other splits.", data, " and ".join(sorted(missing))
        )
    if files:
        return _distinct((line, _question(line, split)) for split, path in files.items() for line in task_lines(path))
    lines = list(task_lines(Path(data), "test", cache))
    if not any("label" in line.fields or "answer" in line.fields for line in lines):
        return _distinct(_labelled(lines, data, annotations))
    return _distinct((line, _question(line, _category(line))) for line in lines)


def split_files(path: Path) -> dict[str, Path]:
    """Return the files of a folder by their split, in the order of `SPLITS`; one file by its own; none for anything else."""
    if path.is_file():
        return {split: path for split in SPLITS if path.stem.endswith(f"pope_{split}")}
    found: dict[str, Path] = {}
    for split in SPLITS if path.is_dir() else ():
        files = sorted({*path.glob(f"*pope_{split}.jsonl"), *path.glob(f"*pope_{split}.json")})
        if len(files) > 1:
            raise UserError(f"{path}: holds {files[0].name} and {files[1].name}. Leave one file of each split in it.")
        if files:
            found[split] = files[0]
    return found


def pope_sources(data: str, annotations: str | None) -> tuple[SourceFile, ...]:
    """Return the files that the questions and labels lie in; none for a dataset's name."""
    labels = split_files(Path(data)) or (split_files(Path(annotations)) if annotations else {})
    found = [_source(split, path) for split, path in labels.items()]
    whole = Path(data).is_file() and not split_files(Path(data))
    return (*([source_file(Path(data))] if whole else []), *found)


def _source(split: str, path: Path) -> SourceFile:
    tried = [source_file(path, {path.name: known}) for known in PUBLISHED[split]]
    return next((one for one in tried if one.published), tried[0])


def _labelled(lines: list[TaskLine], data: str, annotations: str | None) -> Iterator[tuple[TaskLine, PopeQuestion]]:
    """Pair LLaVA's questions with labels, split by split and in order, as LLaVA does; the pictures have to agree."""
    if annotations is None:
        raise UserError(f"{data}: has no labels. Give the folder of coco_pope_*.json: task.annotations=...")
    files = split_files(Path(annotations))
    for split in dict.fromkeys(map(_category, lines)):
        if split not in files:
            raise UserError(f"{annotations}: no file *pope_{split}.json for the {split} questions of {data}.")
        asked, labels = [line for line in lines if _category(line) == split], list(task_lines(files[split]))
        if len(asked) != len(labels):
            raise UserError(
                f"{files[split]}: {len(labels)} labels for {len(asked)} {split} questions of {data}. LLaVA's questions belong to "
                "the files of POPE's commit e3e3926."
            )
        for line, label in zip(asked, labels, strict=True):
            if Path(line.text("image")).name != Path(label.text("image")).name:
                raise label.wrong(f"is about {label.text('image')}, the question about {line.text('image')}")
            fields = {**line.fields, "label": label.text("label")}
            yield line, _question(TaskLine(line.path, line.number, fields), split)


def _category(line: TaskLine) -> str:
    split = line.text("category").lower()
    if split not in SPLITS:
        raise line.wrong(f"category {split!r} is none of {', '.join(SPLITS)}")
    return split


def _question(line: TaskLine, split: str) -> PopeQuestion:
    fields = line.fields
    label = line.text("label" if "label" in fields else "answer").strip().lower()
    if label not in ("yes", "no"):
        raise line.wrong(f"label {label!r} is neither yes nor no")
    image = fields.get("image") or fields.get("image_source")
    if not isinstance(image, str | Path) or not str(image):
        raise line.wrong("image is missing", "write the file's name as image.")
    text = line.text("text" if "text" in fields else "question").strip()
    picture = Path(str(fields.get("image_source") or image)).stem
    return PopeQuestion(split, line.key("question_id"), text, label, str(image), picture)


def _distinct(found: Iterable[tuple[TaskLine, PopeQuestion]]) -> list[PopeQuestion]:
    questions: dict[str, PopeQuestion] = {}
    for line, one in found:
        if one.id in questions:
            raise line.wrong(f"question_id {one.number} stands twice in the {one.split} split", "keep one of the two.")
        questions[one.id] = one
    return list(questions.values())
