"""Where the stages find their keys: in which environment variables and files. Names are handled here, values never."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

GOOGLE_KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
"""Variables that may hold Gemini's key; the first that is set counts."""


def judge_key_variables(judge: Mapping[str, Any]) -> tuple[str, ...]:
    """Variables any of which may hold the key of a judge; none: it needs no key.

    Args:
        judge: its settings, a file of conf/judge.
    """
    if "api_key_variable" in judge:
        return (str(judge["api_key_variable"]),) if judge["api_key_variable"] else ()
    return GOOGLE_KEYS if "api_key_file" in judge else ()


def wandb_login(environment: Mapping[str, str]) -> str | None:
    """What lets Weights & Biases' logger start without asking, in words; ``None`` where nothing does."""
    if environment.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return f"WANDB_MODE={environment['WANDB_MODE']}"
    if environment.get("WANDB_API_KEY", "").strip():
        return "WANDB_API_KEY is set"
    netrc = Path(environment.get("NETRC") or f"{environment.get('HOME', '/')}/.netrc")
    try:
        known = "api.wandb.ai" in netrc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return f"api.wandb.ai stands in {netrc}" if known else None
