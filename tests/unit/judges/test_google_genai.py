"""The judge that asks by Google's own package: what it sends, and what is missing without it."""

import sys

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.judge_server import Files, judge_server
from tests.unit.judges.services import (
    ask,
    google_genai,
)


def test_google_genai_sends_rubric_schema_and_decoding(files: Files, helpsteer: AttributeSchema) -> None:
    settings = {"safety_threshold": "BLOCK_NONE", "thinking_budget": 0, "media_resolution": "low"}
    with judge_server() as server:
        google_genai(server.address, temperature=0.5, max_output_tokens=77, **settings).judge(ask(files, helpsteer))
    body, config = server.exchanges[0].body, server.exchanges[0].body["generationConfig"]
    assert server.exchanges[0].path == "/v1beta/models/judge-1:generateContent"
    assert "verbosity (whole number from 0 to 4" in body["systemInstruction"]["parts"][0]["text"]
    assert (config["temperature"], config["maxOutputTokens"], config["responseMimeType"]) == (
        0.5,
        77,
        "application/json",
    )
    assert (config["thinkingConfig"], config["mediaResolution"]) == ({"thinking_budget": 0}, "MEDIA_RESOLUTION_LOW")
    scores = config["responseSchema"]["properties"]["ratings"]["items"]["properties"]["scores"]
    assert scores["properties"]["coherence"]["type"] == "INTEGER" and "topP" not in config
    assert {setting["threshold"] for setting in body["safetySettings"]} == {"BLOCK_NONE"}


def test_google_genai_without_its_package_says_how_to_install_it(helpsteer, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "google.genai", None)
    monkeypatch.delattr("google.genai")
    monkeypatch.delitem(sys.modules, "nemo_mm_align.llm.clients.google_genai")
    with pytest.raises(UserError, match=r"^judge=google_genai needs .* pip install google-genai=="):
        build_judge({"_target_": "nemo_mm_align.llm.clients.google_genai.GoogleGenai", "model": "m"}, helpsteer)
