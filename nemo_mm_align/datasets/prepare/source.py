"""What a source of data is: how its records look as published, and what can be made of them.

A source is one class in one file, named by the `_target_` of its ``conf/prepare/source/*.yaml``. It turns a record into a `Draft`
of turns, images, answers and attributes, as training's formats do; filters, checks, drawing and writing are the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from nemo_mm_align.core.construction import check_has, construct
from nemo_mm_align.datasets.draft import Draft
from nemo_mm_align.datasets.faults import MalformedRecord, Problem
from nemo_mm_align.schema.image_paths import NO_PATH
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER

Product = Literal["prompts", "annotations", "examples"]
PROMPTS, ANNOTATIONS, EXAMPLES = get_args(Product)

TEXT = "text"
"""Origin of records without an image, where origins are folders of images."""

IMAGES = "images"
"""Origin of records whose images lie in no folder that would say it."""

UNREAD = {"question": "each of its records has one question", "ignore_labels": "its records carry no labels"}
"""Settings that not every source has a use for, and why."""

SOURCE_HAS = ("name", "title", "gives", "used", "published", "attributed", "judge", "paper", "recognises", "parse")


@dataclass
class Item:
    """What a record says.

    Args:
        draft: turns that end with the published answer, or with the question where `draft.answers` is not None.
        origin: which part of a mixture it belongs to; counts are by it.
        task: the kind of question, where the source names it.
        note: what was changed in reading it, which is counted; "" for nothing.
    """

    draft: Draft
    origin: str
    task: str = ""
    note: str = ""


class Source(ABC):
    """A kind of published file.

    Args:
        paper: prompts by origin in the seed paper's file (arXiv 2402.10884), or of ``all``, which the summary compares; {}: none.
        judge: who rated the answers, as annotations are to say it.

    Attributes:
        name: option of the group `source`.
        title: of such a file, in words.
        keys: that a record has; by them a file is recognised.
        used: keys that are read.
        published: other keys that its records have, which say nothing that is needed here.
        gives: what can be made of it, the usual one first.
        attributed: its user turns carry attribute lines.
        unread: settings of `prepare` that its records hold nothing for, of `UNREAD`; a user who gives one is told.
    """

    name: str
    title: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]
    used: ClassVar[tuple[str, ...]]
    published: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[Product, ...]]
    attributed: ClassVar[bool] = False
    unread: ClassVar[tuple[str, ...]] = ()

    def __init__(self, paper: Mapping[str, int] | None = None, judge: str = "") -> None:
        self.paper, self.judge = dict(paper or {}), judge

    @classmethod
    def recognises(cls, record: Mapping[str, Any]) -> bool:
        """Whether a file whose first record this is can be one of this source."""
        return set(cls.keys) <= set(record)

    @abstractmethod
    def parse(self, record: Mapping[str, Any], record_id: str) -> Item | str:
        """Return what a record says; for one that is left out by the source's own settings, why, which is counted.

        Raises:
            MalformedRecord: it cannot be read.
        """


def build_source(config: Mapping[str, Any]) -> Source:
    """Return the source that `_target_` names, made with the other keys as arguments.

    Raises:
        UserError: `_target_` names no class, the class is no source, or a key is none of its arguments.
    """
    made: Source = construct(config, "source", "sources")
    check_has(made, SOURCE_HAS, "source", "a source")
    return made


def images_in_front(turns: list[list[str]]) -> None:
    """Move the ``<image>`` of every user turn before its text, as LLaVA's trainers do (haotian-liu/LLaVA at c121f04,
    ``llava/train/train.py``, `preprocess_multimodal`); as many as there were.
    """
    for turn in turns:
        count = turn[1].count(IMAGE_PLACEHOLDER)
        if turn[0] == "user" and count:
            text = turn[1].replace(IMAGE_PLACEHOLDER, "").strip()
            turn[1] = f"{IMAGE_PLACEHOLDER}\n" * count + text


def image_field(record: Mapping[str, Any], key: str, ending: str = "") -> str:
    """Return the path of the image that a text or a number names; `ending` is added where it has none of its own.

    Raises:
        MalformedRecord: it names none.
    """
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        found = "is missing" if value is None else f"is {value!r}"
        raise MalformedRecord(Problem("field", f"{key} {found}.", f"{key} must name an image."))
    return value if "." in value.rpartition("/")[2] else value + ending


def folder_origin(image: str | None, names: Mapping[str, str]) -> str:
    """Return the origin of a record by the first folder of its relative image path, in the words of `names` where it is there."""
    if image is None:
        return TEXT
    folder = "" if NO_PATH.match(image) else image.rpartition("/")[0].partition("/")[0]
    return names.get(folder, folder or IMAGES)
