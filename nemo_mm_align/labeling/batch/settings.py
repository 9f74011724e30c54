"""Settings of a batch, and what a judge must be able to do for one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import Field, field_validator, model_validator

from nemo_mm_align.core.configuration import StrictModel
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judge import Judge, JudgeReply, JudgeRequest


class BatchSettings(StrictModel):
    """Whether a run writes or reads a batch instead of asking the judge.

    Args:
        write: file for the requests that the ledger lacks; `write.with_suffix('.manifest.json')` describes it.
        read: files of replies (one, or a list).
        max_file_mb: size of a file, in 10**6 bytes; more goes into numbered files.
        max_file_requests: requests of a file.
    """

    write: Path | None = None
    read: tuple[Path, ...] = ()
    max_file_mb: float = Field(default=190.0, gt=0)
    max_file_requests: int = Field(default=50_000, ge=1)

    @field_validator("read", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if value is None or isinstance(value, list):
            return tuple(value or ())
        return (value,) if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _one_thing_at_a_time(self) -> BatchSettings:
        if self.write is not None and self.read:
            raise ValueError("batch.write and batch.read are two runs: write, submit the files, then read the replies")
        if self.write is not None and self.write.suffix != ".jsonl":
            raise ValueError(f"batch.write={self.write} must end in .jsonl")
        return self

    @property
    def manifest_path(self) -> Path | None:
        """Where `write` is described."""
        return None if self.write is None else self.write.with_suffix(".manifest.json")


@runtime_checkable
class WritesBatches(Protocol):
    """A judge whose service takes batches."""

    def batch_request(self, key: str, request: JudgeRequest) -> dict[str, Any]:
        """Return the line of a batch file that asks a request; `CallFailure` where an image has gone."""

    def batch_key(self, line: Mapping[str, Any]) -> str | None:
        """Return the key of a line of replies, None where it has none."""

    def batch_reply(self, line: Mapping[str, Any], request: JudgeRequest) -> JudgeReply:
        """Return the judgement in a line of replies; raise `CallFailure` as a call would."""


def batch_judge(judge: Judge) -> WritesBatches:
    """Return the judge, or raise `UserError` where its service knows no batches."""
    if not isinstance(judge, WritesBatches):
        raise UserError(
            f"batch: {judge.name} knows no batches. Choose judge=gemini, google_genai, openai_compatible or anthropic."
        )
    return judge
