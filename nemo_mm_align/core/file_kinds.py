"""What a data file holds, by its first bytes: names lie, and other people's files are called as they like."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, Literal, cast

from nemo_mm_align.core.errors import UserError

BOM = codecs.BOM_UTF8
HEAD_BYTES = 4096

Kind = Literal["json lines", "json list", "parquet", "arrow", "empty", "other"]

_DATA: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_GZIP = b"\x1f\x8b"
_UNREAD = {
    codecs.BOM_UTF16_LE: "UTF-16 text. Save it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16 text. Save it as UTF-8",
    b"PK\x03\x04": "a zip archive. Unpack it",
    b"\x28\xb5\x2f\xfd": "zstandard-compressed. Unpack it",
    b"BZh": "bzip2-compressed. Unpack it",
    b"\xfd7zXZ": "xz-compressed. Unpack it",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself. Fetch it with git lfs pull",
}


def is_gzip(path: Path) -> bool:
    """Whether a file is gzip-compressed."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading, unpacked on the way if it is gzip-compressed."""
    return cast(BinaryIO, gzip.open(path, "rb")) if is_gzip(path) else path.open("rb")


def kind_of(path: Path) -> Kind:
    """Return what a file holds, looking into a gzip-compressed one.

    Raises:
        UserError: it is of a kind that nothing here reads; the message says which and what to do.
    """
    try:
        with open_plain(path) as file:
            head = file.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}). Check the file; is it complete?") from None
    for start, what in _UNREAD.items():
        if head.startswith(start):
            raise UserError(f"{path}: is {what}.")
    for start, kind in _DATA.items():
        if head.startswith(start):
            return kind
    text = head.removeprefix(BOM).lstrip()
    return {b"": "empty", b"{": "json lines", b"[": "json list"}.get(text[:1], "other")  # type: ignore[return-value]


def check_is_json_lines(path: Path, what: str) -> None:
    """Raise `UserError` where a file is plainly of another kind than JSONL; a faulty line of JSONL is its reader's.

    Args:
        what: the records that it should hold, for the message.
    """
    kind = kind_of(path)
    if kind in ("json list", "parquet", "arrow") or is_gzip(path):
        found = "gzip-compressed" if is_gzip(path) else {"json list": "a JSON list"}.get(kind, f"a {kind} file")
        raise UserError(f"{path}: is {found}. Give a plain JSONL file, one {what} record per line.")
