"""Secrets reach a job through its environment alone: what looks like one is never written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from nemo_mm_align.core.errors import UserError

_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_HARMLESS_NAME = re.compile(r"TOKENIZERS?_|_FILE$|_PATH$|_DIR$|MONKEY|KEYBOARD", re.IGNORECASE)
_VALUE = re.compile(r"AIza[\w-]{30,}|sk-[\w-]{16,}|hf_\w{20,}|nvapi-[\w-]{20,}|gh[pousr]_\w{20,}|\b[0-9a-f]{40}\b")
_SHORTEST = 8


def check_env_vars(env_vars: Mapping[str, str]) -> None:
    """Refuse variables that look like secrets; the message does not repeat the value.

    Raises:
        UserError: names the variable and how to pass it.
    """
    for name, value in env_vars.items():
        if _is_secret_name(name) or _VALUE.search(value):
            raise UserError(
                f"env_vars.{name} looks like a secret, and job scripts are readable files. Leave it out and set it in "
                f"the environment of this command instead (export {name}=...): jobs inherit it."
            )


def check_text(name: str, text: str) -> None:
    """Refuse to write `text` if it holds the value of a secret of this process's environment, or looks like one.

    Raises:
        UserError: names the variable, never its value.
    """
    for variable, value in os.environ.items():
        if _is_secret_name(variable) and len(value) >= _SHORTEST and value in text:
            raise UserError(
                f"{name} would hold the value of {variable}; nothing was written. Take it out of the settings."
            )
    found = _VALUE.search(text)
    if found:
        raise UserError(
            f"{name} would hold what looks like a secret ({found[0][:4]}...); nothing was written. Take it out of the "
            "settings and pass it by the environment or a file."
        )


def hide(text: str) -> str:
    """Return `text` with the values of this process's secrets, and what looks like one, replaced by ``***``."""
    values = [value for name, value in os.environ.items() if _is_secret_name(name) and len(value) >= _SHORTEST]
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    return _VALUE.sub("***", text)


def job_environment(wandb_api_key_file: Path | None) -> dict[str, str]:
    """Return this process's environment for submitting jobs, with the W&B key read from its file if one is given."""
    environment = dict(os.environ)
    if wandb_api_key_file is not None:
        try:
            environment["WANDB_API_KEY"] = wandb_api_key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(f"wandb_api_key_file={wandb_api_key_file}: {error.strerror}. Correct the path.") from None
    return environment


def _is_secret_name(name: str) -> bool:
    return bool(_NAME.search(name)) and not _HARMLESS_NAME.search(name)
