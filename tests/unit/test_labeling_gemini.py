"""The real google-generativeai client against a local server: what goes out, and every way in which a call can fail."""

import json
import logging
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from nemo_mm_align.benchmarks.judge_server.faults import NEVER_S
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.judge_server import (
    Files,
    JudgeServer,
    Reply,
    error,
    generated,
    judge_server,
    judgement,
    make_files,
    reference_answer,
    true_ratings,
)

KEY = "test-key-0123456789"
INTEGER, BLOCK_NONE = 3, 4  # the client sends enumerations as numbers
TEXTS = ("red", "blue\nor so", "")


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, 3)


def request(files: Files, schema: AttributeSchema, index: int = 0, **changes) -> JudgeRequest:
    prompt = files.prompts[index]
    path = files.folder / prompt.images[0]
    return JudgeRequest(**{"prompt": prompt, "candidates": TEXTS, "image_paths": (path,), "schema": schema, **changes})


def judge_at(server: JudgeServer, **settings) -> RubricJudge:
    return RubricJudge(Gemini("gemini-test", api_endpoint=server.address, **settings))


def failure_of(reply: Reply, files: Files, schema: AttributeSchema, **settings) -> CallFailure:
    with judge_server(lambda exchange: reply) as server, pytest.raises(CallFailure) as caught:
        judge_at(server, **settings).judge(request(files, schema))
    assert len(server.exchanges) == 1, "one attempt is one request: the client must not retry"
    return caught.value


def test_ratings_follow_image_and_candidate(files: Files, helpsteer: AttributeSchema) -> None:
    with judge_server() as server:
        judge = judge_at(server)
        for index in range(3):
            reply = judge.judge(request(files, helpsteer, index, want_reference=True))
            assert list(reply.ratings) == [true_ratings(files.image(index), text) for text in TEXTS]
            assert reply.reference_answer == reference_answer(files.image(index))
            assert (reply.reasoning[0], reply.model_version) == ("on red", "test-001")
            assert reply.usage == {"input_tokens": 100, "output_tokens": 50}
    assert [exchange.images for exchange in server.exchanges] == [[files.image(index)] for index in range(3)]
    assert [exchange.mime_types[0] for exchange in server.exchanges] == ["image/png", "image/jpeg", "image/webp"]


def test_request_carries_rubric_schema_and_decoding(files: Files, helpsteer: AttributeSchema) -> None:
    with judge_server() as server:
        judge_at(server, temperature=0.5, max_output_tokens=77, safety_threshold="BLOCK_NONE").judge(
            request(files, helpsteer)
        )
    (exchange,) = server.exchanges
    assert exchange.path.split("?")[0] == "/v1beta/models/gemini-test:generateContent"
    assert KEY not in exchange.path and exchange.headers["x-goog-api-key"] == KEY
    assert "verbosity (whole number from 0 to 4" in exchange.body["systemInstruction"]["parts"][0]["text"]
    config = exchange.body["generationConfig"]
    assert (config["temperature"], config["maxOutputTokens"]) == (0.5, 77) and "topP" not in config
    assert config["responseMimeType"] == "application/json"
    ratings = config["responseSchema"]["properties"]["ratings"]
    assert ratings["items"]["properties"]["scores"]["properties"]["coherence"]["type"] == INTEGER
    assert int(ratings["minItems"]) == 3
    assert int(exchange.headers["content-length"]) <= len(json.dumps(exchange.body)), "written without indentation"
    assert {setting["threshold"] for setting in exchange.body["safetySettings"]} == {BLOCK_NONE}


def test_a_request_without_image_or_candidates_is_refused_by_the_server(files, helpsteer) -> None:
    text_only = files.prompts[0].model_copy(
        update={"images": (), "turns": (files.prompts[0].turns[0].model_copy(update={"content": "What?"}),)}
    )
    with judge_server() as server:
        judge = judge_at(server)
        for changes in ({"prompt": text_only, "image_paths": ()}, {"candidates": ()}):
            with pytest.raises(CallFailure, match="HTTP 400") as caught:
                judge.judge(request(files, helpsteer, **changes))
            assert caught.value.kind == "bad_request"


def blocked(reason: str) -> Reply:
    return Reply({"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 9}})


RETRY_INFO = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}]
PAGE = Reply("<html>gateway</html>", headers={"Content-Type": "text/html"})
FAULTS = {
    "429": (error(429, "slow down"), "rate_limit"),
    "500": (error(500), "server"),
    "503": (error(503), "server"),
    "504": (error(504), "timeout"),
    "400": (error(400), "bad_request"),
    "404": (error(404, "no such model"), "refused"),
    "403": (error(403), "auth"),
    "400 key": (error(400, details=[{"reason": "API_KEY_INVALID"}]), "auth"),
    "500 page": (Reply("<html>oops</html>", 500, {"Content-Type": "text/html"}), "server"),
    "500 list": (Reply("[1]", 500), "server"),
    "200 page": (PAGE, "server"),
    "200 list": (Reply("[]"), "server"),
    "200 empty": (Reply(""), "server"),
    "no candidate": (Reply({}), "server"),
    "cut body": (Reply(generated("{}"), cut=20), "server"),
    "prompt blocked": (blocked("SAFETY"), "safety"),
    "prohibited": (blocked("PROHIBITED_CONTENT"), "safety"),
    "reply blocked": (Reply(generated("", "SAFETY")), "safety"),
    "recitation": (Reply(generated("", "RECITATION")), "recitation"),
    "token limit": (Reply(generated('{"ratings": [', "MAX_TOKENS")), "truncated"),
    "unknown end": (Reply(generated("", "OTHER")), "unparsable"),
    "no JSON": (Reply(generated("Candidate 1 is the best.")), "unparsable"),
}


@pytest.mark.parametrize(("reply", "kind"), FAULTS.values(), ids=FAULTS)
def test_every_failure_has_its_class(reply: Reply, kind: str, files: Files, helpsteer: AttributeSchema) -> None:
    failure = failure_of(reply, files, helpsteer)
    assert failure.kind == kind
    assert failure.retry_after is None


def test_raw_reply_and_tokens_of_a_failure_are_kept(files: Files, helpsteer: AttributeSchema) -> None:
    cut = failure_of(Reply(generated('{"ratings": [', "MAX_TOKENS")), files, helpsteer)
    assert '{\\"ratings\\": [' in cut.raw and "max_output_tokens" in cut.message
    assert cut.usage == {"input_tokens": 100, "output_tokens": 50}
    prose = failure_of(Reply(generated("No.")), files, helpsteer)
    assert (prose.raw, prose.usage["output_tokens"]) == ("No.", 50)
    assert "oops" in failure_of(Reply("<html>oops</html>", 500), files, helpsteer).raw
    assert "slow down" in failure_of(error(429, "slow down"), files, helpsteer).raw


def test_a_number_out_of_range_is_no_rating(files: Files, helpsteer: AttributeSchema) -> None:
    def behaviour(exchange) -> Reply:
        return Reply(generated(json.dumps(judgement(exchange, coherence=7))))

    with judge_server(behaviour) as server, pytest.raises(CallFailure) as caught:
        judge_at(server).judge(request(files, helpsteer))
    assert caught.value.kind == "out_of_range" and '"coherence": 7' in caught.value.raw


def test_waits_asked_for_in_header_or_body_are_read(files: Files, helpsteer: AttributeSchema) -> None:
    begun = datetime.now(UTC)
    date = format_datetime(begun + timedelta(seconds=90), usegmt=True)
    until_date = failure_of(error(429, Retry_After=date), files, helpsteer).retry_after
    passed = (datetime.now(UTC) - begun).total_seconds()
    assert 89 - passed <= until_date <= 90, "to the second"
    assert failure_of(error(429, Retry_After="3"), files, helpsteer).retry_after == 3
    assert failure_of(error(429, details=RETRY_INFO), files, helpsteer).retry_after == 17.5
    assert failure_of(error(503, details=RETRY_INFO, Retry_After="20"), files, helpsteer).retry_after == 20
    assert failure_of(error(429, Retry_After="soon"), files, helpsteer).retry_after is None


def test_a_slow_reply_and_a_closed_port_are_told_apart(files: Files, helpsteer: AttributeSchema) -> None:
    assert failure_of(Reply(generated("{}"), delay=NEVER_S), files, helpsteer, timeout_s=0.2).kind == "timeout"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(CallFailure) as caught:
            RubricJudge(Gemini("gemini-test", api_endpoint=endpoint)).judge(request(files, helpsteer))
    assert caught.value.kind == "server"


def test_an_image_that_is_gone_fails_this_request_alone(files: Files, helpsteer: AttributeSchema) -> None:
    asked = request(files, helpsteer)
    asked.image_paths[0].unlink()
    with judge_server() as server, pytest.raises(CallFailure, match=r"0\.png") as caught:
        judge_at(server).judge(asked)
    assert caught.value.kind == "input" and not server.exchanges


def test_two_judges_keep_their_own_address_and_key(files: Files, helpsteer: AttributeSchema, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("other-key\n")
    with judge_server() as first, judge_server() as second:
        one, two = judge_at(first), judge_at(second, api_key_file=str(tmp_path / "key"))
        for judge in (one, two, one):
            assert isinstance(judge.judge(request(files, helpsteer)), JudgeReply)
    assert [exchange.headers["x-goog-api-key"] for exchange in first.exchanges] == [KEY, KEY]
    assert [exchange.headers["x-goog-api-key"] for exchange in second.exchanges] == ["other-key"]


def test_the_key_shows_nowhere(files: Files, helpsteer: AttributeSchema, caplog) -> None:
    with caplog.at_level(logging.DEBUG):
        echo = failure_of(error(400, f"API key not valid: {KEY}"), files, helpsteer)
        page = failure_of(Reply(f"<html>{KEY}</html>", 500), files, helpsteer)
    texts = [caplog.text, echo.raw, str(echo), echo.message, page.raw, str(page)]
    with judge_server() as server:
        judge = judge_at(server)
        texts += [repr(judge), repr(vars(judge)), repr(judge.settings)]
    assert "[API key]" in echo.raw and "[API key]" in echo.message and "[API key]" in page.raw
    assert not any(KEY in text for text in texts)
    assert echo.__cause__ is None and echo.__suppress_context__


def test_a_missing_or_odd_key_is_an_error_before_any_call(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(UserError, match="set the environment variable GEMINI_API_KEY"):
        Gemini("gemini-test")
    monkeypatch.setenv("GOOGLE_API_KEY", "from-google")
    Gemini("gemini-test")
    for content, problem in (("", "is empty"), ("two words", "holds blanks")):
        (tmp_path / "key").write_text(content)
        with pytest.raises(UserError, match=problem):
            Gemini("gemini-test", api_key_file=str(tmp_path / "key"))
    with pytest.raises(UserError, match="cannot be read"):
        Gemini("gemini-test", api_key_file=str(tmp_path / "absent"))


def test_settings_of_the_group_are_checked(helpsteer: AttributeSchema) -> None:
    target = "nemo_mm_align.llm.clients.gemini.Gemini"
    assert build_judge({"_target_": target, "model": "models/gemini-x"}, helpsteer).name == "gemini-x"
    with pytest.raises(UserError, match=r"no key judge.api_key. Did you mean api_key_file\?.*temperature"):
        build_judge({"_target_": target, "model": "gemini-x", "api_key": "secret"}, helpsteer)
    with pytest.raises(UserError, match="safety_threshold"):
        build_judge({"_target_": target, "model": "gemini-x", "safety_threshold": "OFF"}, helpsteer)
    with pytest.raises(UserError, match="cannot be imported"):
        build_judge({"_target_": target[:-1]}, helpsteer)


def test_the_environments_proxy_is_used_and_its_exceptions_are_kept(files, helpsteer, monkeypatch) -> None:
    with judge_server() as proxy, judge_server() as server:
        monkeypatch.setenv("http_proxy", proxy.address)
        monkeypatch.setenv("no_proxy", "")
        RubricJudge(Gemini("gemini-test", api_endpoint="http://judge.example:8")).judge(request(files, helpsteer))
        assert proxy.exchanges[0].path.startswith("http://judge.example:8/v1beta/models/gemini-test:generateContent")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        judge_at(server).judge(request(files, helpsteer))
    assert (len(proxy.exchanges), len(server.exchanges)) == (1, 1)
