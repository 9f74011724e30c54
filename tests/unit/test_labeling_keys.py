"""The API key in every spelling under which a service may send it back, and words that only look like keys."""

import base64
import html
import json
import logging
import textwrap
from collections.abc import Callable
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from nemo_mm_align.labeling.judge import JudgeRequest
from nemo_mm_align.llm.clients.api_key import conceal, hide_key, read_api_key, shows_key
from nemo_mm_align.llm.clients.key_spellings import is_secret
from nemo_mm_align.llm.failures import LONGEST_MESSAGE, CallFailure
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.judge_server import Files, Reply, honest, judge_server, make_files
from tests.unit.judges.services import anthropic, ask, gemini, google_genai, openai

KEY = "zK9/q+7=Wm_x~R2-vb=="
SPELLINGS = {
    "plain": KEY,
    "JSON": json.dumps(KEY),
    "JSON with slashes escaped": KEY.replace("/", "\\/"),
    "JSON with code points": KEY.replace("=", "\\u003d").replace("/", "\\u002F"),
    "all code points": "".join(f"\\u{ord(character):04x}" for character in KEY),
    "JSON in JSON": json.dumps(json.dumps(KEY.replace("/", "\\/"))),
    "URL": quote(KEY, safe=""),
    "URL in lower case": "zK9%2fq%2b7%3dWm_x~R2-vb%3d%3d",
    "URL twice": quote(quote(KEY, safe=""), safe=""),
    "HTML": html.escape(KEY).replace("=", "&#61;").replace("/", "&#x2F;"),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 of a header": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "base64 inside": base64.b64encode(f"key: {KEY}!".encode()).decode(),
    "URL-safe base64": base64.urlsafe_b64encode(f"k{KEY}".encode()).decode(),
    "hex": KEY.encode().hex(),
    "lines": "\n    ".join(textwrap.wrap(KEY, 6)),
    "escaped lines": "\\n".join(textwrap.wrap(KEY, 6)),
    "joined strings": '" +\n "'.join(textwrap.wrap(KEY, 6)),
    "base64 in lines": "\r\n".join(textwrap.wrap(base64.b64encode(KEY.encode()).decode(), 8)),
}


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_a_key_is_hidden_in_every_spelling(spelled: str) -> None:
    key = SecretStr(KEY)
    hidden = hide_key(f"<before {spelled} after>", key)
    assert hidden.startswith("<before ") and hidden.endswith(" after>") and "[API key]" in hidden
    assert spelled not in hidden and len(hidden) <= len("<before [API key] after>") + 14
    assert shows_key(spelled, key) and not shows_key(hidden, key)


def test_other_texts_stay_as_they_are() -> None:
    text = f"{KEY[:-3]} {KEY[::-1]} zK9/q+7=Wm %41 \\u0041 &#65;"
    assert hide_key(text, SecretStr(KEY)) == text
    assert hide_key(KEY, None) == KEY and not shows_key(KEY, None)


def test_a_key_does_not_show_where_a_message_is_cut() -> None:
    for before in range(LONGEST_MESSAGE - len(KEY) - 2, LONGEST_MESSAGE + 2):
        failure = conceal(CallFailure("server", f"{'x' * before}{KEY} and more"), SecretStr(KEY))
        assert "zK9" not in failure.message and len(failure.message) <= LONGEST_MESSAGE + 3
    assert conceal(CallFailure("server", "two\n  lines"), None).message == "two lines"


DUMMIES = (
    "none",
    "test",
    "local",
    "x",
    "1",
    "EMPTY",
    "token-abc123",
    "sk-no-key-required",
    "lm-studio",
    "helpfulness",
    "12345",
)


@pytest.mark.parametrize("word", DUMMIES)
def test_a_word_is_no_secret_and_replaced_nowhere(word: str) -> None:
    assert not is_secret(word)
    assert hide_key(f"all of {word}, {word}", SecretStr(word)) == f"all of {word}, {word}"


@pytest.mark.parametrize("key", ["hunter2pass", "correcthorsebattery", KEY, "AIzaSyA-1234567890", "sk-abc123-9f8e7d6c"])
def test_a_password_is_one(key: str) -> None:
    assert is_secret(key)


def test_what_is_no_secret_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("A_KEY", "none")
    assert read_api_key(None, ("A_KEY",), "the service").get_secret_value() == "none"
    monkeypatch.setenv("A_KEY", KEY)
    read_api_key(None, ("A_KEY",), "the service")
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert messages == [
        "the API key for the service is too short or too common a word to be a secret: it is sent, and not hidden in messages"
    ]


@pytest.fixture(params=[gemini, google_genai, openai, anthropic], ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable:
    return request.param


@pytest.fixture
def files(tmp_path) -> Files:
    return make_files(tmp_path, 1)


def set_key(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", key)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)


def asked(files: Files, schema: AttributeSchema) -> JudgeRequest:
    return ask(files, schema, want_reference=True)


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_refusal_shows_no_spelling(status: int, make, files: Files, helpsteer, monkeypatch, caplog) -> None:
    set_key(monkeypatch, KEY)
    shown = " ; ".join(SPELLINGS.values())
    reply = Reply({"error": {"code": status, "message": f"bad key {shown}", "status": "UNAUTHENTICATED"}}, status)
    caplog.set_level(logging.DEBUG)
    with judge_server(lambda exchange: reply) as server, pytest.raises(CallFailure) as caught:
        make(server.address).judge(asked(files, helpsteer))
    everything = f"{caught.value}{caught.value.raw}{caught.value.message}{caplog.text}"
    assert not shows_key(everything, SecretStr(KEY)) and caught.value.raw.count("[API key]") == len(SPELLINGS)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("word", ["none", "test", "red", "1", "e", "correctness"])
def test_a_reply_is_never_changed(word: str, make, files: Files, helpsteer, monkeypatch) -> None:
    """Keys of servers on the own machine are words; a reference answer with such a word in it is trained on."""
    set_key(monkeypatch, word)
    with judge_server() as server:
        reply = make(server.address).judge(asked(files, helpsteer))
        plain = json.loads(reply.raw)
    assert reply.reference_answer == plain["my_answer"] and "[API key]" not in reply.raw
    assert reply.reasoning == tuple(f"on {text}".strip() for text in ("red", "blue\nor so", ""))


def test_a_reply_that_repeats_a_secret_is_not_used(make, files: Files, helpsteer, monkeypatch) -> None:
    set_key(monkeypatch, KEY)

    def echo(exchange) -> Reply:
        reply = honest(exchange)
        reply.body = json.loads(json.dumps(reply.body).replace("on red", f"on {KEY}"))
        return reply

    with judge_server(echo) as server, pytest.raises(CallFailure, match="repeats the API key") as caught:
        make(server.address).judge(asked(files, helpsteer))
    assert (
        caught.value.kind == "server"
        and "on [API key]" in caught.value.raw
        and caught.value.usage["output_tokens"] == 50
    )


def test_a_key_that_only_the_parser_resolves_shows_nowhere(make, files: Files, helpsteer, monkeypatch) -> None:
    """In a reply that is no judgement, and in one that is, whose reasoning holds it."""
    set_key(monkeypatch, KEY)
    split = json.dumps(f"{KEY[:9]}\n{KEY[9:]}")
    texts = [f'{{"ratings": [{{"candidate": {split}, "scores": {{}}}}]}}', None]

    def echo(exchange) -> Reply:
        if texts[0] is not None:
            return exchange.front.generated(texts[0])
        reply = honest(exchange)
        reply.body = json.loads(json.dumps(reply.body).replace("on red", json.dumps(split)[1:-1].strip('"')))
        return reply

    for _ in range(2):
        with judge_server(echo) as server, pytest.raises(CallFailure) as caught:
            make(server.address).judge(asked(files, helpsteer))
        failure = caught.value
        assert not shows_key(f"{failure}{failure.message}{failure.raw}", SecretStr(KEY))
        texts[0] = None


def test_batches_show_no_key(make, files: Files, helpsteer, monkeypatch) -> None:
    set_key(monkeypatch, KEY)
    judge = make("http://127.0.0.1:9")
    said = f"Incorrect API key provided: {KEY}\n" + "x" * 3000
    lines = [
        {"key": "k", "error": {"code": 16, "message": said}},
        {"custom_id": "k", "response": {"status_code": 401, "body": {"error": {"message": said}}}},
        {
            "custom_id": "k",
            "result": {"type": "errored", "error": {"error": {"type": "authentication_error", "message": said}}},
        },
    ]
    for line in lines:
        with pytest.raises(CallFailure) as caught:
            judge.batch_reply(line, asked(files, helpsteer))
        failure = caught.value
        assert not shows_key(f"{failure.message}{failure.raw}", SecretStr(KEY))
        assert "\n" not in failure.message and len(failure.message) <= LONGEST_MESSAGE + 3
