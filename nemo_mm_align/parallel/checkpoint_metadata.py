"""What a checkpoint says of itself, ``metadata.json``, and how files of earlier format versions are read.

Version 3 (now): `head` says what stands on top of the hidden states. A checkpoint without a head is written as one of
version 2, which earlier releases read as well.
Version 2: the recipe of a training notes its pictures (`recipe.pictures`), so that a resumed run knows them.
Version 1: it may not have; the run that goes on takes them to be as they are now, and says so.

A key that comes, goes or means something else makes another version: its number goes up, and a reader of the one before is
added to `_TO_NEXT`. A file of a later version is refused, since nobody here knows what its keys mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.model.head_config import HeadConfig

METADATA_FILE = "metadata.json"
FORMAT_VERSION = 3


_SINCE = {"head": 3}
"""First version of the keys that came later."""


class LaterFormat(UserError):
    """The checkpoint was written by a later version of this package: it is not damaged, and cannot be understood here."""


class CheckpointMetadata(BaseModel):
    """What a checkpoint says of itself: enough to rebuild model, prompts and steering without the training config."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = 0
    """The earliest version that has a place for all of it; follows from the rest."""
    step: int
    model: dict[str, Any]
    lora: dict[str, Any] | None
    head: dict[str, Any] | None = None
    template: dict[str, Any]
    attribute_schema: dict[str, Any] | None
    image_processor: dict[str, Any]
    recipe: dict[str, Any]
    base_path: str
    base_fingerprint: str
    precision: str
    layout: dict[str, int] = {}
    versions: dict[str, str] = {}

    @field_validator("head")
    @classmethod
    def _is_one(cls, head: dict[str, Any] | None) -> dict[str, Any] | None:
        if head is not None:
            read(HeadConfig, head, "head")
        return head

    @model_validator(mode="after")
    def _of_the_earliest_version(self) -> CheckpointMetadata:
        self.format_version = 2 if self.head is None else _SINCE["head"]
        return self

    def content(self) -> dict[str, Any]:
        """Return what is written."""
        values = self.model_dump(mode="json")
        return {key: value for key, value in values.items() if _SINCE.get(key, 0) <= self.format_version}


Values = dict[str, Any]


def _from_1(values: Values) -> Values:
    """What a file of version 1 may lack, ``recipe.pictures``, is taken as it is now where a run goes on."""
    return values


def _from_2(values: Values) -> Values:
    """There was no head."""
    return values


_TO_NEXT: dict[int, Callable[[Values], Values]] = {1: _from_1, 2: _from_2}
"""Version -> what makes a file of it one of the next version."""


def read_metadata(folder: str | Path) -> CheckpointMetadata:
    """Read a checkpoint's metadata, of this format version or an earlier one.

    Raises:
        LaterFormat: a later version of this package wrote it.
        UserError: there is none, or it cannot be understood.
    """
    path = Path(folder) / METADATA_FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: not a complete checkpoint ({METADATA_FILE} is missing). Give a step_... folder, or its run's "
            "checkpoints folder."
        )
    values = _values(path)
    version = values.get("format_version", 1)  # as pydantic read files without one before there was a second
    if type(version) is not int or version < 1:
        raise UserError(f"{path}: cannot be read: format_version={shorten(repr(version))} is none. {_RESTORE}")
    if version > FORMAT_VERSION:
        written = values.get("versions")
        by = written.get("nemo_mm_align") if isinstance(written, dict) else None
        raise LaterFormat(
            f"{path}: is of format version {version}, this nemo_mm_align reads up to {FORMAT_VERSION}: open it with a later one"
            + (f" (nemo_mm_align {shorten(str(by))} wrote it)." if by else ".")
        )
    early = [key for key in values if _SINCE.get(key, 0) > version]
    if early:
        raise UserError(f"{path}: cannot be read: {early[0]}: no key of format version {version}. {_RESTORE}")
    for number in range(version, FORMAT_VERSION):
        values = _TO_NEXT[number](values)
    return _checked(values, path)


_RESTORE = "Restore the file from a copy."


def _values(path: Path) -> Values:
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}. {_RESTORE}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: cannot be read: not a JSON object. {_RESTORE}")
    return values


def _checked(values: Values, path: Path) -> CheckpointMetadata:
    try:
        return CheckpointMetadata.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {_words(fault)}" for fault in error.errors()]
        raise UserError(f"{path}: cannot be read: {shorten('; '.join(faults))}. {_RESTORE}") from None


def _words(fault: Any) -> str:
    unknown = fault["type"] == "extra_forbidden"
    return f"no key of format version {FORMAT_VERSION}" if unknown else str(fault["msg"])
