"""scripts/serve.py of an attribute model, and of a chat model that tells its scores beside answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime
from tests.attribute_checkpoints import attribute_checkpoint, helpsteer
from tests.serving_process import KEY, ServingProcess, serving
from tests.tiny import tiny_llava
from tests.waiting import PATIENCE_S

ASKED = [
    {"role": "user", "content": "Is there a triangle?"},
    {"role": "assistant", "content": "no there is no triangle"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve_ratings")
    tiny_llava(folder / "base")
    runtime.initialize(ParallelConfig(), seed=1)
    attribute_checkpoint(folder / "run", folder / "base", "last")
    runtime.shutdown()
    return folder


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[tuple[ServingProcess, ServingProcess]]:
    """The attribute model, which wants a key, and the chat model that asks it."""
    for name in ("rater", "chat"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        rater = stack.enter_context(serving(folder / "rater", f"checkpoint={folder}/run", "name=rater"))
        scorer = f"scorer={{url: '{rater.address}/v1', model: rater, api_key_env: SERVER_KEY}}"
        words = (f"checkpoint={folder}/base", "name=chat", "slots=2", "kept=0", scorer)
        chat = stack.enter_context(serving(folder / "chat", *words, locked=False))
        yield rater, chat
        for server in (chat, rater):
            server.ask_to_end()
            assert server.process.wait(PATIENCE_S) == 0 and KEY not in server.said, server.said


def post(server: ServingProcess, path: str, key: str = KEY) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return requests.post(server.address + path, json={"messages": ASKED}, headers=headers, timeout=60)


def test_scores_beside_answers_are_the_attribute_models(servers: tuple[ServingProcess, ServingProcess]) -> None:
    rater, chat = servers
    reply: Any = rater.client().chat.completions.create(messages=ASKED, model="rater")  # type: ignore[call-overload]
    rated = {token.token: token.logprob for token in reply.choices[0].logprobs.content}
    assert list(rated) == list(helpsteer().names)
    assert post(chat, "/v1/scores").json()["scores"] == rated


def test_the_models_say_what_they_are(servers: tuple[ServingProcess, ServingProcess]) -> None:
    rater, chat = servers
    (card,) = rater.get("/v1/models").json()["data"]
    assert (card["id"], card["kind"], card["asked_by_default"]) == ("rater", "attribute_model", False)
    assert [one["name"] for one in card["attributes"]] == list(helpsteer().names)
    assert chat.get("/v1/models").json()["data"][0]["kind"] == "chat"
    assert post(rater, "/classify", key="wrong").status_code == 401


def test_without_a_key_a_page_of_another_name_is_refused(servers: tuple[ServingProcess, ServingProcess]) -> None:
    _, chat = servers
    assert requests.get(f"{chat.address}/v1/models", timeout=60).status_code == 200
    refused = requests.get(f"{chat.address}/v1/models", headers={"Host": "page.example"}, timeout=60)
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "host_not_allowed"
