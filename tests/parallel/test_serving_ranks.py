"""A server on two ranks: its answers are those of one rank, and a rank that dies ends it within seconds."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.decoding_model import make_folder
from tests.serving_process import ServingProcess, serving
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.parallel

SETTINGS = ["template=vicuna_v1", "template.system=''", "slots=2", "length=2000"]


def answer(server: ServingProcess, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    found = server.client().chat.completions.create(model="model", messages=messages, temperature=0, max_tokens=20)  # type: ignore[arg-type]
    return str(found.choices[0].message.content)


def rank_of(server: ServingProcess, rank: int) -> int:
    """Return the process id of a rank that torchrun has started."""
    for child in psutil.Process(server.process.pid).children():
        if child.environ().get("RANK") == str(rank):
            return child.pid
    raise AssertionError(f"there is no rank {rank}")


def test_two_ranks_answer_as_one_and_end_with_each_other(tmp_path: Path) -> None:
    make_folder(tmp_path / "model")
    checkpoint, questions = f"checkpoint={tmp_path}/model", ["w1 w2 w9", "w3 w6 w9", "w5 w10 w9"]
    with serving(tmp_path, checkpoint, *SETTINGS) as one:
        alone = [answer(one, question) for question in questions]
    with serving(tmp_path, checkpoint, *SETTINGS, "tensor_model_parallel_size=2", ranks=2) as two:
        assert [answer(two, question) for question in questions] == alone and len(set(alone)) > 1
        messages = [{"role": "user", "content": "w5 w10 w9"}]
        stream = iter(
            two.client().chat.completions.create(
                model="model", messages=messages, temperature=0, max_tokens=1500, stream=True
            )  # type: ignore[arg-type]
        )
        next(stream)
        os.kill(rank_of(two, 1), signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            for _ in stream:
                pass
        assert two.process.wait(PATIENCE_S) != 0
        assert time.monotonic() - killed < 60
        said = two.said
    assert "rank 1 has died: the server ends" in said or "the engine has failed, and the server ends" in said
