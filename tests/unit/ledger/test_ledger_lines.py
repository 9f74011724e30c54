"""Lines of a ledger: what is kept of long replies, lines changed by hand, and failures that earlier versions wrote."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.errors import RecordError, UserError
from nemo_mm_align.labeling import stage
from nemo_mm_align.labeling.judges.gemini import GeminiJudge
from nemo_mm_align.labeling.judges.google_genai import GoogleGenaiJudge
from nemo_mm_align.labeling.judges.openai_compatible import OpenAICompatibleJudge
from nemo_mm_align.labeling.ledger import RAW_LIMITS, Attempt, Ledger
from nemo_mm_align.labeling.quality.collect import collect
from nemo_mm_align.labeling.refusals import kind_of_error, kind_of_recorded
from nemo_mm_align.labeling.running.runner import RunnerSettings
from nemo_mm_align.labeling.stage import LabelSettings, LabelSummary, label
from nemo_mm_align.records import Annotation, read_records
from tests.judge_server import (
    Exchange,
    Files,
    JudgeServer,
    Reply,
    generated,
    honest,
    judge_server,
    make_files,
    true_ratings,
)

KEY = "test-key-0123456789"
COUNT = 3
Run = Callable[..., LabelSummary]
JUDGES = {
    "gemini": lambda address: GeminiJudge("judge-1", api_endpoint=address),
    "google_genai": lambda address: GoogleGenaiJudge("judge-1", api_endpoint=address),
    "openai": lambda address: OpenAICompatibleJudge(f"{address}/v1", "judge-1"),
}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, COUNT)


@pytest.fixture
def run(files: Files, helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(stage, "report_quality", lambda *arguments: None)  # seconds of each run
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def run(server: JudgeServer, judge: str = "gemini", **changes: object) -> LabelSummary:
        paths = {"prompts": files.prompts_path, "candidates": files.candidates_path, "out": annotations_path(files)}
        pace = {"concurrency": 1, "backoff_s": 0.0, "max_backoff_s": 0.0}
        settings = {**paths, "attribute_schema": helpsteer, "runner": pace, **changes}
        return label(LabelSettings.model_validate(settings), JUDGES[judge](server.address))

    return run


def annotations_path(files: Files) -> Path:
    return files.folder / "annotations.jsonl"


def ledger_path(files: Files) -> Path:
    return files.folder / "annotations.ledger.jsonl"


def lines_of(files: Files) -> list[dict]:
    return [json.loads(line) for line in ledger_path(files).read_text(encoding="utf-8").splitlines()]


def write_lines(files: Files, lines: list[dict]) -> None:
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    ledger_path(files).write_text(text, encoding="utf-8")


def assert_right(files: Files, count: int = COUNT) -> None:
    found = list(read_records(annotations_path(files), Annotation))
    assert len(found) == count
    for index, annotation in enumerate(found):
        for candidate in annotation.candidates:
            assert candidate.ratings == true_ratings(files.image(index), candidate.text)


# What is kept of a reply


@pytest.mark.parametrize("status", ["ok", "failed"])
def test_a_long_reply_is_kept_up_to_a_limit_with_length_and_hash(status: str, tmp_path: Path) -> None:
    limit = RAW_LIMITS[status]
    common = {"prompt_id": "p", "configuration": "c", "order": [0], "status": status}
    outcome = {"ratings": [{"a": 3}], "reasoning": [""]} if status == "ok" else {"kind": "server", "message": "x"}
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        for name, length in (("whole", limit), ("long", limit + 1)):
            ledger.add(Attempt.model_validate({**common, **outcome, "key": name, "raw": "ü" * length}))
    whole, long = map(json.loads, (tmp_path / "ledger.jsonl").read_text(encoding="utf-8").splitlines())
    assert whole["raw"] == "ü" * limit and "raw_length" not in whole and "raw_sha256" not in whole
    assert (long["raw"], long["raw_length"]) == ("ü" * limit, limit + 1)
    assert long["raw_sha256"] == hashlib.sha256(("ü" * (limit + 1)).encode()).hexdigest()


@pytest.mark.parametrize("judge", JUDGES)
def test_a_reply_of_megabytes_makes_no_ledger_of_megabytes(judge: str, run: Run, files: Files) -> None:
    def behaviour(exchange: Exchange) -> Reply:
        return exchange.front.generated(f"{json.dumps({'ratings': []})}{' ' * 3_000_000}")

    with judge_server(behaviour) as server, pytest.raises(UserError, match="3 of 3 prompts have no annotation"):
        run(server, judge, runner={"concurrency": 1, "max_attempts": 1})
    failed = lines_of(files)[1:]
    assert {(line["kind"], line["raw_length"]) for line in failed} == {("unparsable", 3_000_015)}
    assert ledger_path(files).stat().st_size < COUNT * 25_000


# Lines changed by hand


def drop(name: str) -> Callable[[dict], dict]:
    return lambda line: {**line, name: line[name][:-1]}


def rate(value: object) -> Callable[[dict], dict]:
    def change(line: dict) -> dict:
        first, second, *others = line["ratings"]
        return {**line, "ratings": [first, {**second, "coherence": value}, *others]}

    return change


CHANGES = {
    "fewer ratings": (drop("ratings"), "3 ratings and 4 reasonings for 4 candidates"),
    "fewer reasonings": (drop("reasoning"), "4 ratings and 3 reasonings for 4 candidates"),
    "shorter order": (drop("order"), "order .* is none of 4 candidates"),
    "order of others": (lambda line: {**line, "order": [0, 1, 2, 7]}, r"order \[0, 1, 2, 7\] is none of 4 candidates"),
    "order twice": (lambda line: {**line, "order": [0, 1, 1, 2]}, "order .* is none of 4 candidates"),
    "out of range": (rate(9), "ratings of candidate 2: coherence=9 is outside 0 to 4"),
    "fraction": (rate(2.5), "ratings of candidate 2: coherence=2.5 is not a whole number"),
    "text": (rate("good"), "not an attempt"),
    "missing": (lambda line: {**line, "ratings": [{}] * 4}, "ratings of candidate 1: no value for helpfulness"),
    "other attribute": (
        lambda line: {**line, "ratings": [{**line["ratings"][0], "charm": 3}] * 4},
        "ratings of candidate 1: unknown attribute 'charm'",
    ),
    "no ratings": (lambda line: {name: line[name] for name in line if name != "ratings"}, "0 ratings and 4 reasonings"),
    "unknown key": (lambda line: {**line, "comment": "mine"}, r"not an attempt \(comment: Extra inputs"),
}


@pytest.mark.parametrize(("change", "problem"), CHANGES.values(), ids=CHANGES)
def test_a_line_changed_by_hand_is_named(change: Callable, problem: str, run: Run, files: Files) -> None:
    with judge_server() as server:
        run(server)
        lines = lines_of(files)
        write_lines(files, [*lines[:2], change(lines[2]), *lines[3:]])
        before = annotations_path(files).read_bytes()
        with pytest.raises(RecordError, match=rf"{re.escape(str(ledger_path(files)))}:3: {problem}") as caught:
            run(server)
        assert (
            caught.value.remedy == "delete this line (its request is then asked again) or restore the file from a copy."
        )
        assert annotations_path(files).read_bytes() == before and len(server.exchanges) == COUNT
        write_lines(files, [*lines[:2], *lines[3:]])
        run(server)
    assert len(server.exchanges) == COUNT + 1, "the remedy is one"
    assert_right(files)


def test_the_report_names_lines_too(run: Run, files: Files, helpsteer: AttributeSchema) -> None:
    with judge_server() as server:
        run(server)
    lines = lines_of(files)
    write_lines(files, [lines[0], rate(9)(lines[1]), *lines[2:]])
    with pytest.raises(
        RecordError, match=r"annotations\.ledger\.jsonl:2: not an attempt at a judgement .*outside 0 to 4"
    ):
        collect(annotations_path(files), helpsteer, ledger_path(files))
    text = annotations_path(files).read_text(encoding="utf-8").replace('"coherence":', '"coherence":1', 1)
    annotations_path(files).write_text(f"\n{text}", encoding="utf-8")
    with pytest.raises(RecordError, match=r"annotations\.jsonl:2: coherence=1\d is outside 0 to 4"):
        collect(annotations_path(files), helpsteer)


# Failures that are the service's


def refusal(status: int, message: str, name: str = "", code: str = "") -> Reply:
    return Reply({"error": {"code": code or status, "message": message, "status": name}}, status)


REFUSALS = {
    "place": (400, "User location is not supported for the API use.", "FAILED_PRECONDITION"),
    "billing": (400, "Your credit balance is too low to access the API.", ""),
    "plan": (400, "Enable billing on your project in the console.", "FAILED_PRECONDITION"),
    "not enabled": (403, "Generative Language API has not been used in project 1 before or it is disabled.", ""),
    "account": (400, "Access denied: this account was suspended.", ""),
    "debt": (400, "Arrearage", ""),
    "unpaid": (402, "Payment required", ""),
    "address": (404, "Not Found", ""),
    "method": (405, "Method Not Allowed", ""),
    "law": (451, "not here", ""),
}


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize(("status", "message", "name"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_of_the_service_stops_the_run_and_is_asked_again(
    status, message, name, judge, run: Run, files
) -> None:
    refuses = [True]
    with judge_server(lambda exchange: refusal(status, message, name) if refuses else None) as server:
        with pytest.raises(
            UserError, match=rf"the service works for no prompt: HTTP {status}: .*start the same command"
        ):
            run(server, judge)
        assert len(server.exchanges) == 1
        assert [line.get("kind") for line in lines_of(files)] == [None, "refused"]
        refuses.clear()
        assert run(server, judge).tally.labelled == COUNT
    assert_right(files)


OWN = (
    "the image is too large",
    "Request payload size exceeds the limit",
    "a country house in the region of the lake",
    "disabled",
)


@pytest.mark.parametrize("message", OWN)
def test_a_refusal_of_a_request_is_its_own(message: str) -> None:
    assert kind_of_error(400, f"{message} INVALID_ARGUMENT") == "bad_request"
    assert kind_of_error(422, message) == "bad_request"


def test_a_quota_that_passes_is_no_refusal() -> None:
    text = "You exceeded your current quota, please check your plan and billing details."
    assert kind_of_error(429, text) == "rate_limit"
    assert kind_of_error(429, "insufficient_quota") == "refused"
    assert [kind_of_error(status, "") for status in (0, 204, 307, 401, 403, 407, 408, 409, 425, 500, 504)] == [
        "server",
        "server",
        "refused",
        "auth",
        "auth",
        "auth",
        "timeout",
        "server",
        "server",
        "server",
        "timeout",
    ]


OLD_LINES = {
    "place": ("bad_request", "HTTP 400: User location is not supported for the API use.", "{}"),
    "place in the body": ("bad_request", "HTTP 400: no", '{"error": {"status": "FAILED_PRECONDITION"}}'),
    "moved": ("bad_request", "HTTP 307: moved to http://elsewhere/", ""),
    "address": ("bad_request", "HTTP 404: Not Found", ""),
    "image": ("bad_request", "/data/a: b/0.png: no such image. Check the record's path and the image root.", ""),
    "image of another kind": ("bad_request", "0.png: neither PNG, JPEG, WebP nor GIF. Convert it to PNG or JPEG.", ""),
    "natural end": ("unparsable", "the reply ended with eos_token", ""),
}


@pytest.mark.parametrize(("kind", "message", "raw"), OLD_LINES.values(), ids=OLD_LINES)
def test_earlier_ledgers_set_nothing_aside_for_the_services_faults(kind, message, raw, run: Run, files: Files) -> None:
    with judge_server() as server:
        run(server)
        lines = lines_of(files)
        for line in lines[1:]:
            line.update(status="failed", kind=kind, message=message, raw=raw)
        write_lines(files, [lines[0], *(line for line in lines[1:] for _ in range(5))])
        assert run(server).tally.labelled == COUNT
    assert_right(files)


def test_the_samples_own_faults_stay_its_own() -> None:
    own = (
        ("bad_request", "HTTP 400: Invalid image"),
        ("bad_request", "prompt 'x' has no valid truth"),
        ("unparsable", "the reply ended with OTHER"),
        ("unparsable", "the reply ended with tool_calls"),
        ("unparsable", "no rating of candidate 2 of 3"),
        ("safety", "the reply was blocked (SAFETY)"),
    )
    assert [kind_of_recorded(kind, message, "") for kind, message in own] == [kind for kind, _ in own]


# Replies


GEMINI_ENDS = {
    "IMAGE_PROHIBITED_CONTENT": "safety",
    "IMAGE_SAFETY": "safety",
    "SPII": "safety",
    "BLOCKLIST": "safety",
    "IMAGE_RECITATION": "recitation",
    "MAX_TOKENS": "truncated",
    "LANGUAGE": "unparsable",
    "OTHER": "unparsable",
    "MALFORMED_FUNCTION_CALL": "unparsable",
    "UNEXPECTED_TOOL_CALL": "unparsable",
    "TOO_MANY_TOOL_CALLS": "unparsable",
    "MISSING_THOUGHT_SIGNATURE": "unparsable",
    "MALFORMED_RESPONSE": "unparsable",
    "NO_IMAGE": "unparsable",
    "A_REASON_OF_TOMORROW": "unparsable",
}


@pytest.mark.parametrize("judge", ["gemini", "google_genai"])
@pytest.mark.filterwarnings("ignore:.*is not a valid FinishReason")
def test_every_end_but_the_natural_one_is_a_failure(judge: str, run: Run, files: Files) -> None:
    for reason, kind in GEMINI_ENDS.items():
        ledger_path(files).unlink(missing_ok=True)

        def ended(exchange: Exchange, reason: str = reason) -> Reply:
            reply = honest(exchange)
            assert isinstance(reply.body, dict)
            reply.body["candidates"][0]["finishReason"] = reason
            return reply

        with judge_server(ended) as server, pytest.raises(UserError, match="have no annotation"):
            run(server, judge, runner={"concurrency": 1, "max_attempts": 1})
        assert {line["kind"] for line in lines_of(files)[1:]} == {kind}, reason


@pytest.mark.parametrize("judge", ["gemini", "google_genai"])
@pytest.mark.filterwarnings("ignore:.*is not a valid BlockedReason")
def test_a_prompt_that_is_blocked_for_a_new_reason_is_blocked(judge: str, run: Run, files: Files) -> None:
    blocked = Reply({"promptFeedback": {"blockReason": "REASON_OF_TOMORROW"}})
    with judge_server(lambda exchange: blocked) as server, pytest.raises(UserError, match="have no annotation"):
        run(server, judge)
    assert {line["kind"] for line in lines_of(files)[1:]} == {"safety"}


@pytest.mark.parametrize("judge", ["gemini", "google_genai"])
def test_parts_without_text_and_thoughts_are_passed_over(judge: str, run: Run, files: Files) -> None:
    def in_parts(exchange: Exchange) -> Reply:
        text = json.loads(json.dumps(honest(exchange).body))["candidates"][0]["content"]["parts"][0]["text"]
        body = generated(text[40:])
        others = [{"text": '{"ratings": []}', "thought": True}, {"text": None}, {"text": text[:40]}]
        body["candidates"][0]["content"]["parts"][:0] = others
        return Reply(body)

    with judge_server(in_parts) as server:
        assert run(server, judge).tally.labelled == COUNT
    assert_right(files)


ENDS = {
    **dict.fromkeys(("stop", "eos_token", "eos", "end_turn", "stop_sequence", "COMPLETE", "STOP", "", None), ""),
    **dict.fromkeys(("length", "max_tokens", "MAX_TOKENS", "max_length", "model_context_window_exceeded"), "truncated"),
    **dict.fromkeys(("content_filter", "SAFETY", "sensitive", "refusal"), "safety"),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use"), "unparsable"),
    **dict.fromkeys(("error", "abort", "insufficient_system_resource", "network_error", "cancelled"), "server"),
}


def test_servers_have_many_words_for_a_natural_end(run: Run, files: Files) -> None:
    for reason, kind in ENDS.items():
        ledger_path(files).unlink(missing_ok=True)

        def ended(exchange: Exchange, reason: str | None = reason) -> Reply:
            reply = honest(exchange)
            assert isinstance(reply.body, dict)
            reply.body["choices"][0]["finish_reason"] = reason
            reply.body["choices"][0]["message"]["reasoning_content"] = '{"ratings": []}'
            return reply

        with judge_server(ended) as server:
            run(server, "openai", allow_failures=True, runner={"concurrency": 1, "max_attempts": 1})
        assert {line.get("kind", "") for line in lines_of(files)[1:]} == {kind}, reason


def test_thoughts_in_a_field_of_their_own_are_no_answer(run: Run, files: Files) -> None:
    def thinks(exchange: Exchange) -> Reply:
        reply = honest(exchange)
        assert isinstance(reply.body, dict)
        message = reply.body["choices"][0]["message"]
        message["reasoning"], message["reasoning_content"] = message["content"], message["content"]
        message["content"] = [{"type": "thinking", "text": message["content"]}, {"type": "text", "text": None}]
        return reply

    with judge_server(thinks) as server, pytest.raises(UserError, match="have no annotation"):
        run(server, "openai", runner={"concurrency": 1, "max_attempts": 1})
    assert {line["kind"] for line in lines_of(files)[1:]} == {"unparsable"}


@pytest.mark.parametrize("count", ["1e999", "-5", "1e30", '"12"', "[3]", "null", "true", "9" * 400])
def test_absurd_token_counts_cost_nothing(count: str, run: Run, files: Files) -> None:
    def counts(exchange: Exchange) -> Reply:
        body = json.dumps(honest(exchange).body)
        return Reply(re.sub(r'"(prompt|completion)_tokens": \d+', rf'"\1_tokens": {count}', body))

    with judge_server(counts) as server:
        summary = run(server, "openai")
    assert summary.tally.labelled == COUNT and not summary.tally.usage


# Settings and images


@pytest.mark.parametrize(("name", "most"), [("concurrency", 1024), ("processes", 64)])
def test_numbers_that_no_machine_holds_are_refused(name: str, most: int) -> None:
    assert getattr(RunnerSettings.model_validate({name: most}), name) == most
    for value in (most + 1, 10**9):
        with pytest.raises(
            ValidationError, match=rf"{name}\n.*{value:,} are too many for one machine.*at most {most:,}"
        ):
            RunnerSettings.model_validate({name: value})


@pytest.mark.parametrize("judge", JUDGES)
def test_an_image_that_changes_during_a_run_is_not_judged_under_its_old_name(
    judge: str, run: Run, files: Files
) -> None:
    last = files.folder / files.prompts[2].images[0]
    new = (files.folder / files.prompts[0].images[0]).read_bytes()

    def behaviour(exchange: Exchange) -> None:
        last.write_bytes(new)

    with judge_server(behaviour) as server:
        with pytest.raises(
            UserError, match=r"1 of 3 prompts have no annotation.*2\.webp: changed since this run began"
        ):
            run(server, judge)
        assert len(server.exchanges) == 2 and lines_of(files)[-1]["kind"] == "input"
        run(server, judge)
    assert len(server.exchanges) == 3 and server.exchanges[2].images == [new]
    assert_right(files)


def test_an_image_that_comes_back_is_asked_about(run: Run, files: Files) -> None:
    last = files.folder / files.prompts[2].images[0]
    data = last.read_bytes()
    with judge_server(lambda exchange: last.unlink(missing_ok=True)) as server:
        with pytest.raises(UserError, match=r"2\.webp: no such image"):
            run(server)
        last.write_bytes(data)
        server.behaviour = None
        run(server)
    assert len(server.exchanges) == 3
    assert_right(files)
