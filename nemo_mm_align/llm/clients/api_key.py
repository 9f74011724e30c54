"""API keys: read from a file or the environment, kept out of every text."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.clients.key_spellings import is_secret, without_key
from nemo_mm_align.llm.failures import CallFailure, one_line
from nemo_mm_align.llm.question import Answer

log = logging.getLogger(__name__)

SECRET_NAME = re.compile(
    r"api.?key|authori[sz]ation|password|passwd|secret|(access|auth|bearer).?token|credential", re.IGNORECASE
)
_asks = ContextVar("asks", default=True)
REPEATS_KEY = "the reply repeats the API key and is not used"


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
    if not is_secret(key) and multiprocessing.parent_process() is None:  # said once, not by every worker process
        log.warning(
            "the API key for %s is too short or too common a word to be a secret: it is sent, and not hidden in messages",
            service,
        )
    return SecretStr(key)


@contextmanager
def only_estimating() -> Iterator[None]:
    """Let clients be made without a key within: they are asked nothing (a dry run), and count no tokens by their service."""
    before = _asks.set(False)
    try:
        yield
    finally:
        _asks.reset(before)


def key_for_calls(path: str | None, variables: Sequence[str], service: str) -> SecretStr | None:
    """Return the key as `read_api_key` does; None where there is none and nothing is to be asked (`only_estimating`)."""
    given = path is not None or any(os.environ.get(name, "").strip() for name in variables)
    if given or _asks.get():
        return read_api_key(path, variables, service)
    log.info("no API key for %s (%s): nothing is counted by the service", service, " or ".join(variables))
    return None


def refuse_secrets(values: Any, where: str) -> None:
    """Raise `UserError` where settings that ledgers and reports repeat hold a key under a name that says so.

    Args:
        values: plain values, nested ones too.
        where: their place in the configuration, for the message.
    """
    if isinstance(values, Mapping):
        for name, value in values.items():
            if SECRET_NAME.search(str(name)) and value not in (None, ""):
                raise UserError(
                    f"{where}.{name}: what stands here is written into ledgers and reports. Give the key as "
                    "judge.api_key_file=FILE or in the environment."
                )
            refuse_secrets(value, f"{where}.{name}")
    elif isinstance(values, list | tuple):
        for value in values:
            refuse_secrets(value, where)


def hide_key(text: str, key: SecretStr | None) -> str:
    """Return a text without the key in any spelling: services and proxies echo it in their errors.

    For messages and errors: a reply that is used is never changed. What is too short or too common to be a secret is
    left alone, see `is_secret`.
    """
    if key is None or not is_secret(key.get_secret_value()):
        return text
    return without_key(text, key.get_secret_value())


def shows_key(text: str, key: SecretStr | None) -> bool:
    """Whether a text holds the key in any spelling."""
    return hide_key(text, key) != text


def conceal(failure: CallFailure, key: SecretStr | None) -> CallFailure:
    """Return a failure without the key in its texts, its message as one line of bounded length."""
    message = one_line(hide_key(failure.message, key))
    return CallFailure(failure.kind, message, hide_key(failure.raw, key), failure.retry_after, failure.usage)


def checked_for_key(answer: Answer, key: SecretStr | None) -> Answer:
    """Return an answer as it is; raise `CallFailure` where it repeats the key, which nothing that is kept may hold."""
    if shows_key(f"{answer.text}\n{answer.model_version}", key):
        raise CallFailure("server", REPEATS_KEY, answer.text, usage=answer.usage)
    return answer


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
