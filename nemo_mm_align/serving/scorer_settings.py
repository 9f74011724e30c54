"""Who tells scores beside answers, as the user sets it; needs no torch."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from nemo_mm_align.core.configuration import StrictModel
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.clients.addresses import check_address

LONGEST_SECONDS = 600


class ScorerSettings(StrictModel):
    """Another server that tells scores.

    Args:
        url: with its version, for example ``http://127.0.0.1:8001/v1``.
        model: as it calls the attribute model.
        api_key_env: environment variable with its key; None where it wants none.
        timeout_s: seconds for one conversation, from connecting to the last byte.
    """

    url: str
    model: str
    api_key_env: str | None = None
    timeout_s: Annotated[float, Field(gt=0, le=LONGEST_SECONDS)] = 30.0

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        try:
            return check_address(url, "scorer.url").removesuffix("/chat/completions")
        except UserError as error:
            raise ValueError(str(error).replace("judge.api_key_variable", "scorer.api_key_env")) from None


def scorer_key(settings: ScorerSettings) -> SecretStr | None:
    """Return the key; raise `UserError` where its variable holds none."""
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"scorer.api_key_env={settings.api_key_env}: the environment variable holds no key. Set it, or give null."
        )
    return SecretStr(key)
