"""A judge of a few lines that costs tokens and takes time: for budgets, limits, estimates and worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest
from nemo_mm_align.labeling.rubric import build_question
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.price import Price

MAX_OUTPUT_TOKENS = 400
DEADLY, SLOW = "deadly", "slow"


def input_tokens(request: JudgeRequest) -> int:
    prompt = build_question(request)
    texts = [prompt.instructions, *(part for part in prompt.parts if isinstance(part, str))]
    return sum(map(len, texts)) // 3 + 300 * len(request.image_paths)


def output_tokens(request: JudgeRequest) -> int:
    return 60 * len(request.candidates) + len(request.candidates[0]) % 7


class PaidJudge:
    """Rates by length of the text. It writes one line per call (process, time, question) to `calls`.

    A candidate "deadly" kills the process, as long as its file `calls`.died is missing; "slow" times out.
    """

    name = "paid"
    reads_metadata = False
    max_output_tokens = MAX_OUTPUT_TOKENS

    def __init__(
        self, calls: str, latency: float = 0.0, price: Mapping[str, Any] | None = None, says_usage: bool = True
    ) -> None:
        self.calls, self.latency, self.says_usage = Path(calls), latency, says_usage
        self.price = Price.model_validate(price) if price else None

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    def count_tokens(self, request: JudgeRequest) -> int:
        return input_tokens(request)

    def judge(self, request: JudgeRequest) -> JudgeReply:
        with self.calls.open("ab", buffering=0) as file:
            file.write(f"{os.getpid()} {time.time()} {request.prompt.id}\n".encode())
        time.sleep(self.latency)
        died = self.calls.with_suffix(".died")
        if DEADLY in request.candidates and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if SLOW in request.candidates:
            raise CallFailure("timeout", "no answer")
        ratings = tuple({name: float(len(text) % 5) for name in request.schema.names} for text in request.candidates)
        usage = {"input_tokens": input_tokens(request), "output_tokens": output_tokens(request)}
        return JudgeReply(ratings, ("because",) * len(ratings), raw="{}", usage=usage if self.says_usage else {})


class UncountingJudge(PaidJudge):
    """The same, but it cannot count beforehand."""

    count_tokens = None  # type: ignore[assignment]


class HomelyJudge(PaidJudge):
    """The same, but no worker process can make it."""

    def __init__(self, calls: str) -> None:
        super().__init__(calls)
        if multiprocessing.parent_process() is not None:
            raise UserError("not at home")


def calls_of(path: Path) -> list[tuple[int, float, str]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(pid), float(moment), prompt) for pid, moment, prompt in map(str.split, lines)]
