"""Questions of one token: how likely its alternatives were, through every client."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.client import check_probabilities
from nemo_mm_align.llm.clients.anthropic import Anthropic
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.llm.clients.google_genai import GoogleGenai
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import Question
from tests.judge_server import JudgeServer, judge_server

CLIENTS = {
    "openai": lambda address: OpenAICompatible(f"{address}/v1", "m"),
    "gemini": lambda address: Gemini("m", api_endpoint=address),
    "google_genai": lambda address: GoogleGenai("m", api_endpoint=address),
}
FIRST, SECOND = [("M", -0.25), ("m", -1.5)], [("!", -0.1)]
WANTED = Question("", ("Which is better, m or M?",), top_logprobs=2, max_output_tokens=1)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "test-key-0123456789")


def openai_logprobs(*steps: list[tuple[str, float]]) -> dict[str, Any]:
    told = [[{"token": token, "logprob": value, "bytes": None} for token, value in step] for step in steps]
    return {"logprobs": {"content": [{**step[0], "top_logprobs": step} for step in told]}}


def gemini_logprobs(*steps: list[tuple[str, float]]) -> dict[str, Any]:
    told = [[{"token": token, "tokenId": 7, "logProbability": value} for token, value in step] for step in steps]
    return {"logprobsResult": {"topCandidates": [{"candidates": step} for step in told]}}


def answer_with(server: JudgeServer, name: str, *steps: list[tuple[str, float]]) -> None:
    """Let the server say M, cut at the limit, with these alternatives."""

    def reply(exchange):
        said = exchange.front.generated("M", "length")
        choice = (said.body["choices"] if name == "openai" else said.body["candidates"])[0]
        choice.update((openai_logprobs if name == "openai" else gemini_logprobs)(*steps) if steps else {})
        return said

    server._judge = reply  # type: ignore[method-assign]


@pytest.mark.parametrize("name", CLIENTS)
def test_alternatives_of_the_first_token_come_back(name: str) -> None:
    """In order, the most likely first; what comes after the first token does not count, and a cut at the limit is wanted."""
    with judge_server(allow_text=True) as server:
        answer_with(server, name, FIRST[::-1], SECOND)
        answer = CLIENTS[name](server.address).ask(WANTED)
        body = server.exchanges[0].body
    assert (answer.text, answer.top_logprobs) == ("M", (("M", -0.25), ("m", -1.5)))
    assert json.loads(json.dumps(answer.top_logprobs)) == [["M", -0.25], ["m", -1.5]], "as a ledger keeps it"
    config = body if name == "openai" else body["generationConfig"]
    names = ("logprobs", "top_logprobs", "max_tokens") if name == "openai" else ("responseLogprobs", "logprobs")
    assert [config[one] for one in names] == ([True, 2, 1] if name == "openai" else [True, 2])
    assert config.get("maxOutputTokens", 1) == 1


@pytest.mark.parametrize("name", CLIENTS)
def test_a_service_that_says_nothing_gives_no_alternatives(name: str) -> None:
    with judge_server(allow_text=True) as server:
        answer_with(server, name)
        assert CLIENTS[name](server.address).ask(WANTED).top_logprobs == ()


@pytest.mark.parametrize("name", CLIENTS)
def test_without_such_wishes_a_request_is_as_before(name: str) -> None:
    """And a reply that is cut at the client's own limit stays a failure."""
    with judge_server(allow_text=True) as server, pytest.raises(CallFailure) as caught:
        answer_with(server, name, FIRST)
        CLIENTS[name](server.address).ask(Question("", ("Which?",)))
    assert caught.value.kind == "truncated"
    assert "logprobs" not in json.dumps(server.exchanges[0].body).lower()
    assert "8192" in json.dumps(server.exchanges[0].body)


def test_a_token_of_no_probability_is_none() -> None:
    with judge_server(allow_text=True) as server:
        answer_with(server, "openai", [("m", float("-inf")), ("M", 0.0)])
        assert CLIENTS["openai"](server.address).ask(WANTED).top_logprobs == (("M", 0.0),)


def test_who_cannot_tell_says_so_before_asking() -> None:
    with judge_server(allow_text=True) as server:
        client = Anthropic("claude", base_url=server.address)
        with pytest.raises(UserError, match=r"judge claude gives no token probabilities, and 2 are .* top_logprobs=0"):
            client.ask(WANTED)
        with pytest.raises(UserError, match="gives at most 20 token probabilities, and 21 are asked for"):
            check_probabilities(CLIENTS["openai"](server.address), Question("", ("?",), top_logprobs=21))
        assert not server.exchanges


def test_a_limit_alone_suits_every_client() -> None:
    with judge_server(allow_text=True) as server:
        server._judge = lambda exchange: exchange.front.generated("M", "length")  # type: ignore[method-assign]
        answer = Anthropic("claude", base_url=server.address).ask(Question("", ("Which?",), max_output_tokens=3))
        assert answer.text == "M" and server.exchanges[0].body["max_tokens"] == 3


def test_defaults_ask_for_nothing() -> None:
    assert asdict(Question("", ())) == {
        "instructions": "", "parts": (), "response_schema": None, "response_name": "answer",
        "top_logprobs": 0, "max_output_tokens": None,
    }  # fmt: skip
