"""All judges that ask a service, over HTTP against the local server: what each sends, and every way in which it fails."""

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from pydantic import ValidationError

import nemo_mm_align.llm.clients.question_images
from nemo_mm_align.core.configuration import read as read_settings
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.items import LabelContext
from nemo_mm_align.labeling.judge import CountsTokens, JudgeRequest, price_of
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.labeling.stage import LabelSettings
from nemo_mm_align.llm.clients.anthropic import Anthropic
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.llm.clients.google_genai import GoogleGenai
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import Question
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt, Turn
from tests.judge_server import FAULTS, Files, Reply, error, judge_server, make_files, reference_answer, true_ratings
from tests.waiting import wait_until

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


MakeJudge = Callable[..., RubricJudge]


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture(params=[gemini, google_genai, openai, anthropic], ids=lambda make: make.__name__)
def make(request) -> MakeJudge:
    return request.param


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, 3)


def ask(files: Files, schema: AttributeSchema, index: int = 0, **changes) -> JudgeRequest:
    prompt = files.prompts[index]
    paths = (files.folder / prompt.images[0],)
    return JudgeRequest(**{"prompt": prompt, "candidates": TEXTS, "image_paths": paths, "schema": schema, **changes})


def failure_of(make: MakeJudge, reply: Reply, files: Files, schema: AttributeSchema) -> CallFailure:
    with judge_server(lambda exchange: reply) as server, pytest.raises(CallFailure) as caught:
        make(server.address).judge(ask(files, schema))
    assert len(server.exchanges) == 1
    return caught.value


def test_ratings_follow_image_and_candidate(make: MakeJudge, files: Files, helpsteer: AttributeSchema) -> None:
    with judge_server() as server:
        judge = make(server.address, price=PRICE)
        for index in range(3):
            reply = judge.judge(ask(files, helpsteer, index, want_reference=True))
            assert list(reply.ratings) == [true_ratings(files.image(index), text) for text in TEXTS]
            assert reply.reference_answer == reference_answer(files.image(index))
            assert (reply.reasoning[0], reply.model_version) == ("on red", "test-001")
            assert reply.usage == {"input_tokens": 100, "output_tokens": 50}
    assert [exchange.images for exchange in server.exchanges] == [[files.image(index)] for index in range(3)]
    assert [exchange.mime_types[0] for exchange in server.exchanges] == ["image/png", "image/jpeg", "image/webp"]
    price = price_of(judge)
    assert price is not None and price.cost(1e6, 5e5) == 3.0


def test_every_fault_has_its_class_and_is_not_retried_by_the_client(make, files, helpsteer) -> None:
    found = {}
    names = [name for name in FAULTS if make is not gemini or name not in ("slow", "stall")]  # others have those below
    for name in names:
        with judge_server(lambda exchange, name=name: FAULTS[name].reply(exchange)) as server:
            with pytest.raises(CallFailure) as caught:
                make(server.address, timeout_s=0.5 if name in ("slow", "stall") else 60).judge(ask(files, helpsteer))
            wait_until(lambda server=server: server.exchanges)  # the client may have given up before the server read
            assert len(server.exchanges) == 1, name
        found[name] = caught.value.kind
        if name == "page":
            assert "log in to the proxy" in caught.value.raw, "what came instead of a reply is kept"
        assert KEY not in f"{caught.value}{caught.value.raw}{caught.value.__cause__}"
    expected = {name: FAULTS[name].kind for name in names}
    if make in (openai, anthropic):  # their protocols know no other reason
        expected["recitation"] = "safety"
    assert found == expected


def test_waits_are_read_from_headers(make, files: Files, helpsteer: AttributeSchema) -> None:
    begun = datetime.now(UTC)
    date = format_datetime(begun + timedelta(seconds=90), usegmt=True)
    until_date = failure_of(make, error(503, Retry_After=date), files, helpsteer).retry_after
    passed = (datetime.now(UTC) - begun).total_seconds()
    assert 89 - passed <= until_date <= 90, "to the second"
    assert failure_of(make, error(429, Retry_After="3"), files, helpsteer).retry_after == 3
    assert failure_of(make, error(429, Retry_After_Ms="1500"), files, helpsteer).retry_after == 1.5
    assert failure_of(make, error(429, Retry_After="soon"), files, helpsteer).retry_after is None


def test_the_key_shows_nowhere(make, files: Files, helpsteer: AttributeSchema, caplog) -> None:
    with caplog.at_level(logging.DEBUG):
        echo = failure_of(make, error(400, f"wrong key: {KEY}"), files, helpsteer)
    with judge_server() as server:
        judge = make(server.address)
        judge.judge(ask(files, helpsteer))
        texts = [repr(judge), repr(vars(judge.client)), repr(judge.settings), caplog.text, echo.raw, str(echo)]
    assert "[API key]" in echo.raw and "[API key]" in echo.message
    assert not any(KEY in text for text in texts)
    headers = server.exchanges[0].headers
    assert KEY in (headers.get("x-goog-api-key"), headers.get("authorization", "").removeprefix("Bearer "))


def test_bytes_go_as_they_are_undecoded(make, files: Files, helpsteer: AttributeSchema, monkeypatch) -> None:
    """What the file is called and whether it is whole was the input check's business."""
    path = files.folder / "cut.txt"
    path.write_bytes(files.image(1)[:40])
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    with judge_server() as server:
        make(server.address).judge(ask(files, helpsteer, image_paths=(path,)))
    assert server.exchanges[0].images == [path.read_bytes()] and server.exchanges[0].mime_types == ["image/jpeg"]


def test_gif_becomes_png_where_the_service_takes_none(make, files, helpsteer, caplog, monkeypatch) -> None:
    monkeypatch.setattr(nemo_mm_align.llm.clients.question_images, "_noted", set())
    path = files.folder / "a.gif"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
    with judge_server() as server:
        judge = make(server.address)
        for _ in range(2):
            judge.judge(ask(files, helpsteer, image_paths=(path,)))
    taken = make in (openai, anthropic)
    assert server.exchanges[0].mime_types == ["image/gif" if taken else "image/png"]
    assert caplog.text.count("sent as PNG") == (0 if taken else 1)


@pytest.mark.parametrize("content", [b"", b"BM not an image", None])
def test_an_image_that_has_gone_or_changed_fails_this_request_alone(make, content, files, helpsteer) -> None:
    asked = ask(files, helpsteer)
    asked.image_paths[0].unlink()
    if content is not None:
        asked.image_paths[0].write_bytes(content)
    with judge_server() as server, pytest.raises(CallFailure, match=r"0\.png") as caught:
        make(server.address).judge(asked)
    assert caught.value.kind == "input" and not server.exchanges


def test_both_clients_of_gemini_share_their_judgements() -> None:
    """The same question to the same model is not paid twice because another client asks it."""
    assert gemini("http://x").settings == google_genai("http://x").settings
    assert "thinking_budget" not in google_genai("http://x").settings
    assert google_genai("http://x", thinking_budget=0).settings["thinking_budget"] == 0


def test_services_count_tokens(files: Files, helpsteer: AttributeSchema) -> None:
    for make in (gemini, google_genai, anthropic):
        with judge_server() as server:
            judge = make(server.address)
            assert isinstance(judge, CountsTokens)
            assert judge.count_tokens(ask(files, helpsteer)) == 100
        assert len(server.counted) == 1 and not server.exchanges


def test_a_call_fills_no_log(make: MakeJudge, files: Files, helpsteer: AttributeSchema, caplog) -> None:
    with judge_server() as server, caplog.at_level(logging.INFO):
        make(server.address).judge(ask(files, helpsteer))
    assert len(server.exchanges) == 1 and not caplog.records, "thousands of calls, thousands of lines"


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


def test_anthropic_sends_rubric_schema_and_decoding(files: Files, helpsteer: AttributeSchema) -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    with judge_server() as server:
        anthropic(server.address, temperature=0.0, max_output_tokens=2077, extra_body=thinking).judge(
            ask(files, helpsteer)
        )
        anthropic(server.address, response_format=None).judge(ask(files, helpsteer))
    body, plain = (exchange.body for exchange in server.exchanges)
    assert server.exchanges[0].path == "/v1/messages" and "anthropic-version" in server.exchanges[0].headers
    assert "verbosity (whole number from 0 to 4" in body["system"] and [m["role"] for m in body["messages"]] == ["user"]
    assert (body["max_tokens"], body["temperature"], body["thinking"]) == (2077, 0.0, thinking["thinking"])
    ratings = body["output_config"]["format"]["schema"]["properties"]["ratings"]
    scores = ratings["items"]["properties"]["scores"]
    assert scores["additionalProperties"] is False and "minItems" not in ratings, "bounds that the service refuses"
    assert not {"temperature", "top_p", "output_config", "thinking"} & set(plain)


ANTHROPIC_REPLIES = {
    "credit": ("Your credit balance is too low to access the API", 400, "invalid_request_error", "refused"),
    "key": ("invalid x-api-key", 401, "authentication_error", "auth"),
    "region": ("Not available in your region", 403, "permission_error", "refused"),
    "model": ("model: claude-9", 404, "not_found_error", "refused"),
    "long": ("prompt is too long: 300000 tokens", 400, "invalid_request_error", "bad_request"),
    "large": ("Request exceeds the maximum size", 413, "request_too_large", "bad_request"),
    "overloaded": ("Overloaded", 529, "overloaded_error", "server"),
}


@pytest.mark.parametrize(("message", "status", "name", "kind"), ANTHROPIC_REPLIES.values(), ids=ANTHROPIC_REPLIES)
def test_anthropic_errors_have_their_class(message, status, name, kind, files: Files, helpsteer) -> None:
    reply = Reply({"type": "error", "error": {"type": name, "message": message}}, status)
    failure = failure_of(anthropic, reply, files, helpsteer)
    assert failure.kind == kind and message in failure.message and f"HTTP {status}" in failure.message


@pytest.mark.parametrize("body", ["[1]", '{"content": "text"}', '{"content": [{"type": "text"}]}', "{}"])
def test_anthropic_replies_that_are_no_messages_are_the_services_fault(body, files: Files, helpsteer) -> None:
    assert failure_of(anthropic, Reply(body), files, helpsteer).kind == "server"


def test_anthropic_asks_where_its_settings_say(files: Files, helpsteer, monkeypatch) -> None:
    """The library's own variables neither send the key elsewhere nor replace it."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "another")
    with judge_server() as server:
        anthropic(server.address).judge(ask(files, helpsteer))
    headers = server.exchanges[0].headers
    assert "another" not in str(headers) and KEY in str(headers)
    for taken in ("system", "max_tokens"):
        with pytest.raises(UserError, match=f"extra_body sets {taken}"):
            anthropic("http://x", extra_body={taken: 1})
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "Authorization: Bearer another")
    with pytest.raises(UserError, match="ANTHROPIC_CUSTOM_HEADERS is set"):
        anthropic("http://x")


def test_anthropic_keeps_the_schema_beside_other_settings_of_the_reply(files: Files, helpsteer) -> None:
    extra = {"output_config": {"effort": "low"}, "top_k": 5}
    with judge_server() as server:
        judge = anthropic(server.address, extra_body=extra)
        judge.judge(ask(files, helpsteer))
        assert judge.count_tokens(ask(files, helpsteer)) == 100
    body = server.exchanges[0].body
    assert (
        body["output_config"]["effort"] == "low" and "schema" in body["output_config"]["format"] and body["top_k"] == 5
    )
    assert judge.batch_request("k", ask(files, helpsteer))["params"] == body


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("htps://x", "is no address"),
        ("127.0.0.1:8080", "is no address"),
        ("http://me:secret@x", "a password"),
        ("http://x?token=abc", "a query"),
    ],
)
def test_addresses_are_checked_and_keep_no_secret(address: str, problem: str) -> None:
    for make in (anthropic, lambda address: RubricJudge(OpenAICompatible(address, "m"))):
        with pytest.raises(UserError, match=problem) as caught:
            make(address)
        assert "secret" not in str(caught.value) and "abc" not in str(caught.value)
    with judge_server() as server:
        assert anthropic(f"{server.address}/v1").client._base_url == server.address


def test_openai_sends_rubric_schema_and_decoding(files: Files, helpsteer: AttributeSchema) -> None:
    settings = {"max_tokens_parameter": "max_completion_tokens", "extra_body": {"reasoning_effort": "low"}}
    with judge_server() as server:
        openai(server.address, seed=7, max_output_tokens=77, **settings).judge(ask(files, helpsteer))
    body = server.exchanges[0].body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "verbosity (whole number from 0 to 4" in body["messages"][0]["content"]
    assert (body["seed"], body["max_completion_tokens"], body["reasoning_effort"]) == (7, 77, "low")
    assert "max_tokens" not in body and "top_p" not in body
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["ratings"]["items"]["properties"]["scores"]["additionalProperties"] is False


@pytest.mark.parametrize(("kind", "sent"), [("json_object", {"type": "json_object"}), (None, None)])
def test_openai_reply_format_is_a_choice(kind, sent, files: Files, helpsteer: AttributeSchema) -> None:
    with judge_server() as server:
        openai(server.address, response_format=kind).judge(ask(files, helpsteer))
    assert server.exchanges[0].body.get("response_format") == sent


def openai_error(status: int, code: str) -> Reply:
    return Reply({"error": {"message": "no", "code": code}}, status)


OPENAI_REPLIES = {
    "quota": (openai_error(429, "insufficient_quota"), "refused"),
    "key": (openai_error(401, "invalid_api_key"), "auth"),
    "unpaid": (openai_error(402, ""), "refused"),
    "length": (openai_error(400, "context_length_exceeded"), "bad_request"),
    "flat error": (Reply({"object": "error", "message": "too long", "code": 400}, 400), "bad_request"),
    "moved": (Reply("", 307, {"Location": "http://elsewhere/"}), "refused"),
    "refusal": (Reply({"choices": [{"finish_reason": "stop", "message": {"refusal": "I cannot"}}]}), "safety"),
    "tool call": (Reply({"choices": [{"finish_reason": "tool_calls", "message": {"content": None}}]}), "unparsable"),
    "no content": (Reply({"choices": [{"finish_reason": "stop", "message": {"content": None}}]}), "unparsable"),
    "error with 200": (Reply({"error": {"message": "upstream"}}), "server"),
    "list": (Reply("[1]"), "server"),
    "no message": (Reply({"choices": [{}]}), "server"),
}


@pytest.mark.parametrize(("reply", "kind"), OPENAI_REPLIES.values(), ids=OPENAI_REPLIES)
def test_openai_errors_have_their_class(reply: Reply, kind: str, files: Files, helpsteer: AttributeSchema) -> None:
    assert failure_of(openai, reply, files, helpsteer).kind == kind


def test_openai_takes_text_in_parts_and_prompts_without_image(files: Files, helpsteer: AttributeSchema) -> None:
    prompt = Prompt(id="t", turns=(Turn(role="user", content="What?"),))

    def in_parts(exchange) -> Reply:
        reply = exchange.front.generated('{"ratings": []}')
        reply.body["choices"][0]["message"]["content"] = [{"type": "text", "text": '{"ratings"'}, {"type": "image"}]
        return reply

    with judge_server(in_parts, allow_text=True) as server, pytest.raises(CallFailure) as caught:
        openai(server.address).judge(ask(files, helpsteer, prompt=prompt, image_paths=()))
    assert (caught.value.kind, caught.value.raw) == ("unparsable", '{"ratings"')
    assert server.exchanges[0].images == []


def test_openai_key_is_optional_and_netrc_is_not_sent(files, helpsteer, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password from-netrc\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match=r"OPENAI_API_KEY"):
        openai("http://x")
    (tmp_path / "key").write_text("file-key\n")
    with judge_server() as server:
        openai(server.address, api_key_variable=None).judge(ask(files, helpsteer))
        openai(server.address, api_key_file=str(tmp_path / "key")).judge(ask(files, helpsteer))
    sent = [exchange.headers.get("authorization") for exchange in server.exchanges]
    assert sent == [None, "Bearer file-key"]


def test_settings_of_openai_are_checked(helpsteer: AttributeSchema) -> None:
    wrong = {
        "judge.base_url": {"base_url": "localhost:8000"},
        "a password": {"base_url": "http://me:secret@x/v1"},
        "max_tokens_parameter": {"max_tokens_parameter": "limit"},
        "response_format": {"response_format": "xml"},
        "extra_body sets model": {"extra_body": {"model": "other"}},
        "extra_body.headers.Authorization: what stands here": {
            "extra_body": {"headers": {"Authorization": "Bearer x"}}
        },
        "extra_body.api_key: what stands here": {"extra_body": {"api_key": "x"}},
    }
    for problem, settings in wrong.items():
        with pytest.raises(UserError, match=problem):
            OpenAICompatible(**{"base_url": "http://x/v1", "model": "m", **settings})
    assert OpenAICompatible("http://a/v1", "m").settings == OpenAICompatible("http://b/v1", "m").settings


def configuration(repository: Path, *overrides: str) -> dict:
    """What scripts/label.py is given with these overrides."""
    paths = ["prompts=p.jsonl", "candidates=c.jsonl", "out=o.jsonl"]
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        config = compose("label", overrides=[*paths, *overrides])
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(
    "overrides",
    [
        ("judge=gemini",),
        ("judge=google_genai", "judge.thinking_budget=0"),
        ("judge=openai_compatible", "judge.base_url=http://x/v1", "judge.model=m", "judge.extra_body={top_k: 1}"),
        ("judge=anthropic", "judge.model=m"),
        ("judge=human", "judge.annotator=anna"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_shipped_groups_make_their_judge(overrides, repository: Path, helpsteer: AttributeSchema) -> None:
    judge = build_judge(configuration(repository, *overrides)["judge"], helpsteer)
    assert price_of(judge) is None and judge.settings
    if overrides[0] != "judge=human":
        prices = ("judge.price.input_per_million=0.5", "judge.price.output_per_million=2")
        price = price_of(build_judge(configuration(repository, *overrides, *prices)["judge"], helpsteer))
        assert price is not None and price.cost(1e6, 1e6) == 2.5
        with pytest.raises(ValidationError, match="output_per_million"):
            build_judge(configuration(repository, *overrides, prices[0])["judge"], helpsteer)


@pytest.mark.parametrize(
    "overrides",
    [
        ("judge=gemini",),
        ("judge=google_genai",),
        ("judge=openai_compatible", "judge.base_url=http://x/v1", "judge.model=m"),
        ("judge=anthropic", "judge.model=m"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_only_who_is_asked_needs_a_key(overrides, repository: Path, helpsteer: AttributeSchema, monkeypatch) -> None:
    config = configuration(repository, *overrides)["judge"]
    with_key = build_judge(config, helpsteer)
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    estimating = build_judge(config, helpsteer, asks=False)
    assert estimating.settings == with_key.settings, "the same ledger"
    client = estimating.client
    assert not isinstance(client, CountsTokens) or client.count_tokens(Question("You count.", ("One",))) is None
    with pytest.raises(UserError, match="no API key for"):
        build_judge(config, helpsteer)
    with pytest.raises(UserError, match="judge.api_key_file=/nowhere cannot be read"):
        build_judge(config | {"api_key_file": "/nowhere"}, helpsteer, asks=False)


LEDGER_KEYS = {
    "6ab5a689616d3b03d9a3fc81f1184c6c": ("judge=gemini",),
    "46e778a124e9b93beecc1b23b84a5aa6": ("judge=google_genai", "judge.thinking_budget=3"),
    "26a00d9d8b6b240d069a3f0f4f170f38": (
        "judge=openai_compatible",
        "judge.base_url=http://x/v1",
        "judge.model=m",
        "judge.extra_body={top_k: 1}",
    ),
}
"""What commit 1a72c78 of November 2026 kept judgements under, of the shipped groups with the default schema."""


@pytest.mark.parametrize(("fingerprint", "overrides"), LEDGER_KEYS.items(), ids=lambda value: value[0][6:])
def test_earlier_ledgers_stay_valid(fingerprint: str, overrides, repository: Path) -> None:
    config = configuration(repository, *overrides)
    schema = AttributeSchema.model_validate(config["attribute_schema"])
    assert LabelContext(build_judge(config["judge"], schema), schema, want_reference=True).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("override", "write", "read"),
    [
        ("batch.write=r.jsonl", Path("r.jsonl"), ()),
        ("batch.read=a.jsonl", None, (Path("a.jsonl"),)),
        ("batch.read=[a.jsonl,b.jsonl]", None, (Path("a.jsonl"), Path("b.jsonl"))),
    ],
)
def test_batches_are_asked_for_on_the_command_line(override, write, read, repository: Path) -> None:
    config = configuration(repository, override)
    settings = read_settings(LabelSettings, {name: value for name, value in config.items() if name != "judge"})
    assert (settings.batch.write, settings.batch.read) == (write, read)
