"""Schemas of replies that are no judgement: what every service's form takes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_mm_align.llm.clients.anthropic import Anthropic
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.llm.clients.google_genai import GoogleGenai
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import Question, QuestionImage
from tests.judge_server import judge_server

VERDICT = {
    "type": "object",
    "properties": {
        "winner": {"type": "string", "enum": ["A", "B", "tie"]},
        "reasons": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["winner", "reasons"],
}
CLIENTS = {
    "gemini": lambda address: Gemini("m", api_endpoint=address),
    "google_genai": lambda address: GoogleGenai("m", api_endpoint=address),
    "openai": lambda address: OpenAICompatible(f"{address}/v1", "m"),
    "anthropic": lambda address: Anthropic("m", base_url=address),
}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "test-key-0123456789")


@pytest.mark.parametrize("schema", [VERDICT, None], ids=["verdict", "text"])
@pytest.mark.parametrize("name", CLIENTS)
def test_any_question_is_answered(name: str, schema) -> None:
    """The server knows judgements alone: what it is asked is read from what it received."""
    question = Question("", ("Which is better?",), schema)
    with judge_server(lambda exchange: exchange.front.generated("B"), allow_text=True) as server:
        client = CLIENTS[name](server.address)
        server._judge = lambda exchange: exchange.front.generated("B")  # type: ignore[method-assign]
        answer = client.ask(question)
    assert (answer.text, answer.model_version) == ("B", "test-001")
    body = str(server.exchanges[0].body)
    assert ("tie" in body) is (schema is not None) and "Which is better?" in body and "system" not in body.lower()


@pytest.mark.parametrize("name", CLIENTS)
def test_an_image_that_is_not_there_fails_the_question_alone(name: str) -> None:
    question = Question("Look.", (QuestionImage(Path("/nowhere/a.png")), "What is it?"))
    with pytest.raises(CallFailure, match="no such image") as caught:
        CLIENTS[name]("http://127.0.0.1:9").ask(question)
    assert caught.value.kind == "input"
