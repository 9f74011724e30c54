"""One call as a run sees it, whatever is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nemo_mm_align.llm.question import Question


@dataclass(frozen=True)
class Outcome:
    """What a successful call is recorded with.

    Args:
        fields: of its line in the ledger: what was read from the reply, and the reply itself as ``raw``.
        usage: token counts, see `Answer`.
    """

    fields: Mapping[str, Any]
    usage: Mapping[str, int]


class Call(Protocol):
    """Something to ask. Its methods are called in worker threads, `ask` once per attempt."""

    @property
    def key(self) -> str:
        """Hash of everything that the answer depends on; what has succeeded under it is never asked again."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Fields of the ledger line of every attempt, failed ones too: the prompt's id, what was shown in which order."""

    @property
    def size(self) -> int:
        """How many answers it asks about; what a reply costs is assumed by that."""

    def question(self) -> Question:
        """Return what is asked, or would be where nobody is asked for tokens: guesses of its cost go by its length."""

    @property
    def can_count(self) -> bool:
        """Whether somebody can be asked how long the question is, at no cost."""

    def count_tokens(self) -> int | None:
        """Return the question's tokens as its service counts them; None where it cannot say. May raise `CallFailure`."""

    def ask(self) -> Outcome:
        """Make one attempt; raise `CallFailure` where it gives no answer that can be used."""
