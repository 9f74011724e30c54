"""Judges that ask a service, one per client, and what they are asked in tests."""

from collections.abc import Callable

import pytest

from nemo_mm_align.labeling.judge import JudgeRequest
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.llm.clients.anthropic import Anthropic
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.llm.clients.google_genai import GoogleGenai
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.judge_server import Files, Reply, judge_server

KEY = "test-key-0123456789"
TEXTS = ("red", "blue\nor so", "")
PRICE = {"input_per_million": 1.0, "output_per_million": 4.0}


def gemini(address: str, **settings):
    return RubricJudge(Gemini("judge-1", api_endpoint=address, **settings))


def google_genai(address: str, **settings):
    return RubricJudge(GoogleGenai("judge-1", api_endpoint=address, **settings))


def openai(address: str, **settings):
    return RubricJudge(OpenAICompatible(f"{address}/v1", "judge-1", **settings))


def anthropic(address: str, **settings):
    return RubricJudge(Anthropic("judge-1", base_url=address, **settings))


def set_keys(monkeypatch) -> None:
    """Give every client the key that tests look for."""
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


MakeJudge = Callable[..., RubricJudge]


def ask(files: Files, schema: AttributeSchema, index: int = 0, **changes) -> JudgeRequest:
    prompt = files.prompts[index]
    paths = (files.folder / prompt.images[0],)
    return JudgeRequest(**{"prompt": prompt, "candidates": TEXTS, "image_paths": paths, "schema": schema, **changes})


def failure_of(make: MakeJudge, reply: Reply, files: Files, schema: AttributeSchema) -> CallFailure:
    with judge_server(lambda exchange: reply) as server, pytest.raises(CallFailure) as caught:
        make(server.address).judge(ask(files, schema))
    assert len(server.exchanges) == 1
    return caught.value
