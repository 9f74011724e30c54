"""Scores beside answers: asked of another server in NIM's form over a real socket, and of the miniature's oracle."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from starlette.testclient import TestClient

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.miniature.sources import charts
from nemo_mm_align.miniature.truth import Bar, Scene
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.serving.gate import Gate
from nemo_mm_align.serving.pictures import PictureStore
from nemo_mm_align.serving.reading import BodyReader
from nemo_mm_align.serving.score_route import ScoreRoute, with_ranges
from nemo_mm_align.serving.scorer_settings import ScorerSettings
from nemo_mm_align.serving.scoring import Scorer, make_scorer
from tests.served_app import LIMITS, application
from tests.unit.serving.toy_model import schema as shipped_schema

KEY = "nvapi-0123456789abcdefghijklmnop"
ASKED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
CONTENT = "helpfulness:1.5,correctness:0.25,verbosity:-0.5"
SCORES = {"helpfulness": 1.5, "correctness": 0.25, "verbosity": -0.5}
SCENE = Scene(
    source="chart", bars=(Bar(colour="red", value=2), Bar(colour="teal", value=6), Bar(colour="black", value=1))
)


class RewardModel(ThreadingHTTPServer):
    """Replies what it is told to, and remembers what came."""

    reply: tuple[int, Any] = (200, {})
    wait_s = 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, str | None, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: RewardModel

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers["Authorization"], body))
        time.sleep(self.server.wait_s)
        status, reply = self.server.reply
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def model() -> Iterator[RewardModel]:
    with RewardModel() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(scorer: Scorer, messages: Any) -> tuple[int, Any]:
    with ThreadPoolExecutor(1) as readers:
        gate = Gate(1)
        route = ScoreRoute(scorer, PictureStore(ImageProcessor(image_size=28)), BodyReader(LIMITS, gate, readers))
        reply = TestClient(application([route.router()], gate=gate)).post("/v1/scores", json={"messages": messages})
    return reply.status_code, reply.json()


def completion(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": CONTENT}, **choice}]}


def test_another_server_is_asked_with_its_key(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_KEY", KEY)
    model.reply = (200, completion())
    scorer = make_scorer(ScorerSettings(url=model.url, model="rater", api_key_env="REWARD_KEY"))
    assert ask(scorer, ASKED) == (200, {"scores": SCORES})
    assert model.seen == [
        ("/v1/chat/completions", f"Bearer {KEY}", {"model": "rater", "messages": ASKED, "stream": False})
    ]


@pytest.mark.parametrize(
    "choice",
    [
        {"message": [{"role": "assistant", "content": CONTENT}]},  # NVIDIA's hosted model
        {
            "message": {"content": None},
            "logprobs": {"content": [{"token": k, "logprob": v} for k, v in SCORES.items()]},
        },
    ],
)
def test_every_form_of_a_reward_models_reply_is_read(choice: dict[str, Any], model: RewardModel) -> None:
    model.reply = (200, completion(**choice))
    assert ask(make_scorer(ScorerSettings(url=model.url, model="rater")), ASKED) == (200, {"scores": SCORES})
    assert model.seen[0][1] is None


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((401, {"error": {"message": f"bad key {KEY}"}}), "HTTP 401: bad key"),
        ((500, {"error": {"message": "out of memory"}}), "HTTP 500: out of memory"),
        ((200, completion(message={"content": "It is good."})), "the reply is no reward model's"),
        ((200, completion(message={"content": "helpfulness:nan"})), "the reply is no reward model's"),
        ((200, ["no completion"]), "the reply is no reward model's"),
        ((200, completion(message={"content": f"{KEY}:1"})), "the reply repeats the API key"),
    ],
)
def test_a_failure_is_told_without_the_key(
    reply: tuple[int, Any],
    says: str,
    model: RewardModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("REWARD_KEY", KEY)
    model.reply = reply
    scorer = make_scorer(ScorerSettings(url=model.url, model="rater", api_key_env="REWARD_KEY"))
    with caplog.at_level(logging.DEBUG):
        status, body = ask(scorer, ASKED)
    assert (status, body["error"]["code"]) == (502, "scorer_failed")
    assert says in body["error"]["message"] and KEY not in str(body) + caplog.text
    assert "no scores" in caplog.text


def test_a_slow_or_missing_server_is_told(model: RewardModel) -> None:
    model.wait_s = 0.6
    status, body = ask(make_scorer(ScorerSettings(url=model.url, model="rater", timeout_s=0.2)), ASKED)
    assert status == 502 and "no whole reply within 0.2 s (scorer.timeout_s)" in body["error"]["message"]
    status, body = ask(make_scorer(ScorerSettings(url="http://127.0.0.1:9/v1", model="rater")), ASKED)
    assert status == 502 and "Connection" in body["error"]["message"]


def test_the_oracle_rates_what_is_asked_of_its_pictures() -> None:
    data = io.BytesIO()
    charts.draw_chart(SCENE).save(data, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "how tall is the teal bar?"}]
    for answer, correct in (("6.", 4.0), ("2.", 0.0)):
        status, body = ask(
            make_scorer("oracle"), [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
        )
        assert status == 200 and body["scores"]["correctness"] == correct
    assert list(body["scores"]) == ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
    status, body = ask(make_scorer("oracle"), ASKED)
    assert (status, body["error"]["code"]) == (422, "cannot_be_scored")


def test_a_conversation_has_to_end_with_an_answer(model: RewardModel) -> None:
    status, body = ask(make_scorer(ScorerSettings(url=model.url, model="rater")), ASKED[:1])
    assert status == 400 and "must end with one of the assistant" in body["error"]["message"]
    assert not model.seen


def test_settings_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARD_KEY", raising=False)
    with pytest.raises(UserError, match="scorer.api_key_env=REWARD_KEY: the environment variable holds no key"):
        make_scorer(ScorerSettings(url="http://127.0.0.1/v1", model="rater", api_key_env="REWARD_KEY"))
    with pytest.raises(UserError, match="scorer.url='127.0.0.1' is no address"):
        read(ScorerSettings, {"url": "127.0.0.1", "model": "rater"})


def test_scores_come_with_their_ranges_and_total() -> None:
    schema = shipped_schema()
    scores = {"helpfulness": 2.5, "correctness": 4.0, "coherence": 3.0, "complexity": 1.0, "verbosity": 0.0}
    told = with_ranges(scores, schema)
    assert told["total"] == 9.5 and [one["name"] for one in told["attributes"]] == list(schema.names)
    assert "total" not in with_ranges({"helpfulness": 2.5}, schema)
    assert with_ranges({**scores, "charm": 1.0}, schema) == with_ranges(scores, None) == {}
