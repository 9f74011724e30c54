"""Hashes that stand in keys, file names and settings: SHA-256, of which the first hex digits are kept."""

from __future__ import annotations

import hashlib
import json
from typing import Any

DIGITS = 16


def hash_bytes(data: bytes, digits: int = DIGITS) -> str:
    """Return the hash of bytes."""
    return hashlib.sha256(data).hexdigest()[:digits]


def hash_text(text: str, digits: int = DIGITS) -> str:
    """Return the hash of a text's UTF-8 bytes."""
    return hash_bytes(text.encode(), digits)


def hash_json(value: Any, digits: int = DIGITS) -> str:
    """Return the hash of a JSON value; the order of keys makes no difference."""
    return hash_text(SORTED_JSON.encode(value), digits)


SORTED_JSON = json.JSONEncoder(sort_keys=True)
"""As ``json.dumps(value, sort_keys=True)``, which makes an encoder at every call."""
