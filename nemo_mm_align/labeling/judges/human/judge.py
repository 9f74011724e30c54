"""A person as a judge: name and settings for the ledger. The asking is done by a page (`HumanSession`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest

PAGE_VERSION = 1
"""Part of every content key: to be raised where the page asks for something else than before."""


class HumanJudge:
    """A person who rates candidates on a local page, without seeing anybody else's scores.

    Args:
        annotator: who it is; recorded as judge ``human:<annotator>``.
        port: of the page on 127.0.0.1; 0 for any free one.
        revise: open the page although all is labelled, to correct answers.
    """

    reads_metadata = False
    price = None
    max_output_tokens = 0

    def __init__(self, annotator: str, port: int = 8765, revise: bool = False) -> None:
        if not re.fullmatch(r"[\w.@-]{1,64}", annotator):
            raise UserError(f"judge.annotator={annotator!r}: use letters, digits and . _ - @, at most 64 of them.")
        self.name, self.annotator = f"human:{annotator}", annotator
        self.port, self.revise = port, revise

    @property
    def settings(self) -> Mapping[str, Any]:
        """Who and what kind of page."""
        return {"annotator": self.annotator, "page": PAGE_VERSION}

    def judge(self, request: JudgeRequest) -> JudgeReply:
        """Raise `UserError`: a person is not called like a service."""
        raise UserError(
            "judge=human labels on a page of its own, with scripts/label.py alone; choose another judge here."
        )
