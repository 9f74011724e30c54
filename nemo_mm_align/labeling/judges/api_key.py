"""API keys: read from a file or the environment, kept out of every text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from nemo_mm_align.errors import UserError


def read_api_key(path: str | None, variables: Sequence[str], service: str) -> SecretStr:
    """Return the key from a file, or else from the first of the environment variables that is set.

    Raises:
        UserError: there is no key, or what is there can be none.
    """
    key = _read_file(path) if path is not None else _read_environment(variables, service)
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            "the API key holds blanks, line breaks or other characters that no key has; give the key alone."
        )
    return SecretStr(key)


def hide_key(text: str, key: SecretStr | None) -> str:
    """Return a text without the key: services and proxies echo it in their errors."""
    return text.replace(key.get_secret_value(), "[API key]") if key is not None else text


def hide_key_in(body: Mapping[str, Any], key: SecretStr | None) -> Mapping[str, Any]:
    """Return a JSON object without the key in any of its texts: a proxy may echo it in a reply with status 200."""
    text = json.dumps(body)
    hidden = hide_key(text, key)
    return body if hidden == text else dict(json.loads(hidden))


def _read_file(path: str) -> str:
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"judge.api_key_file={path} cannot be read: {error}.") from None
    if not key:
        raise UserError(f"judge.api_key_file={path} is empty; write the API key into it.")
    return key


def _read_environment(variables: Sequence[str], service: str) -> str:
    key = next((value for name in variables if (value := os.environ.get(name, "").strip())), "")
    if not key:
        first, *others = variables
        also = f" (or {', '.join(others)})" if others else ""
        raise UserError(
            f"no API key for {service}: set the environment variable {first}{also}, or name a file with "
            "judge.api_key_file=..."
        )
    return key
