"""scripts/serve.py of an attribute model, and of a chat model that tells its scores beside answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from openai import OpenAI

from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime
from tests.attribute_checkpoints import attribute_checkpoint, helpsteer
from tests.distributed import REPOSITORY, free_port
from tests.tiny import tiny_llava
from tests.waiting import PATIENCE_S

ASKED = [
    {"role": "user", "content": "Is there a triangle?"},
    {"role": "assistant", "content": "no there is no triangle"},
]
KEY = "sk-0123456789abcdefghijklmn"


@contextmanager
def serving(log: Path, checkpoint: Path, *more: str) -> Iterator[str]:
    """A server's address; what it wrote is in `log`."""
    port = free_port()
    command = [sys.executable, str(REPOSITORY / "scripts/serve.py"), f"checkpoint={checkpoint}", f"port={port}", *more]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=log.parent, env={**os.environ, "REWARD_KEY": KEY}
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, log.read_text()


def wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{url}/health", timeout=1).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve_ratings")
    tiny_llava(folder / "base")
    runtime.initialize(ParallelConfig(), seed=1)
    attribute_checkpoint(folder / "run", folder / "base", "last")
    runtime.shutdown()
    return folder


@pytest.fixture(scope="module")
def urls(folder: Path) -> Iterator[tuple[str, str]]:
    """Of the attribute model, which wants a key, and of the chat model that asks it."""
    with ExitStack() as servers:
        rater = servers.enter_context(
            serving(folder / "rater.log", folder / "run", "name=rater", "api_key_variable=REWARD_KEY")
        )
        scorer = f"scorer={{url: '{rater}/v1', model: rater, api_key_env: REWARD_KEY}}"
        chat = servers.enter_context(
            serving(folder / "chat.log", folder / "base", "name=chat", "slots=2", "kept=0", scorer)
        )
        wait_for(rater, folder / "rater.log")
        wait_for(chat, folder / "chat.log")
        yield rater, chat
    assert KEY not in (folder / "rater.log").read_text() + (folder / "chat.log").read_text()


def test_scores_beside_answers_are_the_attribute_models(urls: tuple[str, str]) -> None:
    rater, chat = urls
    client = OpenAI(base_url=f"{rater}/v1", api_key=KEY, max_retries=0)
    reply: Any = client.chat.completions.create(messages=ASKED, model="rater")  # type: ignore[call-overload]
    rated = {token.token: token.logprob for token in reply.choices[0].logprobs.content}
    assert list(rated) == list(helpsteer().names)
    assert requests.post(f"{chat}/v1/scores", json={"messages": ASKED}).json()["scores"] == rated


def test_the_models_say_what_they_are(urls: tuple[str, str]) -> None:
    rater, chat = urls
    (card,) = requests.get(f"{rater}/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
    assert (card["id"], card["kind"], card["asked_by_default"]) == ("rater", "attribute_model", False)
    assert [one["name"] for one in card["attributes"]] == list(helpsteer().names)
    assert requests.get(f"{chat}/v1/models").json()["data"][0]["kind"] == "chat"
    assert requests.post(f"{rater}/classify", json={"messages": ASKED}).status_code == 401
