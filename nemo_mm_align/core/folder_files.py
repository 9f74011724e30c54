"""Files of a model folder as they really arrive: absent, empty, cut off, or a Git LFS pointer in place of the file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError

REMEDY = "Copy or download the folder again."

MAX_JSON_BYTES = 64 * 1024 * 1024
"""What is parsed of a settings file or of an index of shards; the longest ones known have a few MB."""

_LFS_HEAD = b"version https://git-lfs"
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def file_fault(path: Path) -> str | None:
    """Return what is wrong with a file that somebody is about to parse; None where it is absent or has content of its own."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_HEAD))
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror or error}). {REMEDY}"
    if not head.strip():
        return f"{path}: is empty. {REMEDY}"
    if head == _LFS_HEAD:
        return f"{path}: is a Git LFS pointer in place of the file. Run git lfs pull in its repository, or download it again."
    return None


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Return a JSON file's object; raise `UserError` where it is missing or not one."""
    fault = file_fault(path)
    if fault is not None:
        raise UserError(fault)
    if path.exists() and path.stat().st_size > MAX_JSON_BYTES:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes; at most {MAX_JSON_BYTES:,} are parsed. {REMEDY}")
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Give a folder in Hugging Face format with {what}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}). {REMEDY}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no JSON object. {REMEDY}")
    return values


def check_files(folder: str | Path, names: Iterable[str] = (*_SETTINGS, *TOKENIZER_FILES)) -> None:
    """Raise `UserError` for the first of a folder's files that is empty, a Git LFS pointer or, if JSON, no object."""
    for name in names:
        path = Path(folder) / name
        fault = file_fault(path)
        if fault is not None:
            raise UserError(fault)
        if path.suffix == ".json" and path.exists() and name != "tokenizer.json":  # megabytes, parsed soon after anyway
            read_object(path, name)
