"""What the user can set of `chat`; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.core.configuration import read
from nemo_mm_align.serving.offer_checks import check_offer
from nemo_mm_align.serving.offer_settings import OfferSettings


class ChatSettings(OfferSettings):
    """``conf/chat.yaml``; the comments there say what each means."""


def check_early(values: Mapping[str, Any]) -> ChatSettings:
    """Read the settings and check all of them that needs no tokenizer and no weight; raise `UserError` otherwise.

    Args:
        values: ``conf/chat.yaml``, composed, as plain values.
    """
    settings = read(ChatSettings, values)
    check_offer(settings)
    return settings
