"""Offline batches: what is written is what a call would send; replies become the attempts that calls would have made."""

import hashlib
import json
import logging
from pathlib import Path

import pytest
import requests

import nemo_mm_align.labeling.stage
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.labeling.stage import LabelSettings, LabelSummary, label
from nemo_mm_align.llm.clients.anthropic import Anthropic
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.llm.clients.google_genai import GoogleGenai
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.miniature.oracle import OracleJudge
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, read_records
from tests.judge_server import FAULTS, Files, judge_server, make_files, true_ratings

JUDGES = {
    "gemini": lambda **changes: RubricJudge(Gemini("judge-1", **changes)),
    "google_genai": lambda **changes: RubricJudge(GoogleGenai("judge-1", **changes)),
    "openai": lambda **changes: RubricJudge(OpenAICompatible("http://127.0.0.1/v1", "judge-1", **changes)),
    "anthropic": lambda **changes: RubricJudge(Anthropic("judge-1", **changes)),
}


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setattr(nemo_mm_align.labeling.stage, "report_quality", lambda *paths: None)  # has tests of its own
    monkeypatch.setenv("GEMINI_API_KEY", "test-key")
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, 6)


@pytest.fixture
def batch(files: Files, helpsteer: AttributeSchema):
    """Run the stage with a judge and settings of `batch`."""

    def run(name: str, judge: dict | None = None, allow_failures: bool = True, **settings: object) -> LabelSummary:
        values = {
            "prompts": files.prompts_path,
            "candidates": files.candidates_path,
            "out": files.folder / "annotations.jsonl",
            "attribute_schema": helpsteer,
            "allow_failures": allow_failures,
            "batch": {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()},
        }
        return label(LabelSettings.model_validate(values), JUDGES[name](**(judge or {})))

    return run


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def attempts(files: Files) -> list[dict]:
    return [line for line in lines(files.folder / "annotations.ledger.jsonl") if "key" in line]


def serve(name: str, requests_path: Path, replies_path: Path, faults: dict[int, str] | None = None) -> None:
    """Do what the service does with a batch: answer each line over HTTP, and write the replies in another order."""

    def behave(exchange):
        fault = (faults or {}).get(exchange.number)
        return FAULTS[fault].reply(exchange) if fault else None

    with judge_server(behave) as server:
        replies = []
        for line in lines(requests_path):
            if name == "openai":
                reply = requests.post(server.address + line["url"], json=line["body"], timeout=60)
                response = {"status_code": reply.status_code, "request_id": "r", "body": reply.json()}
                replies.append(
                    {"id": f"b{len(replies)}", "custom_id": line["custom_id"], "response": response, "error": None}
                )
            elif name == "anthropic":
                reply = requests.post(f"{server.address}/v1/messages", json=line["params"], timeout=60)
                outcome = (
                    {"type": "succeeded", "message": reply.json()}
                    if reply.ok
                    else {"type": "errored", "error": reply.json()}
                )
                replies.append({"custom_id": line["custom_id"], "result": outcome})
            else:
                address = f"{server.address}/v1beta/models/judge-1:generateContent"
                reply = requests.post(address, json=line["request"], timeout=60)
                key = "response" if reply.ok else "error"
                replies.append({"key": line["key"], key: reply.json() if reply.ok else reply.json()["error"]})
    replies_path.write_text("".join(json.dumps(reply) + "\n" for reply in reversed(replies)), "utf-8")


def assert_right(files: Files, count: int) -> None:
    found = list(read_records(files.folder / "annotations.jsonl", Annotation))
    assert len(found) == count
    for annotation in found:
        index = int(annotation.prompt.id[1:])
        texts = [candidate.text for candidate in files.candidates[index].candidates]
        assert [candidate.text for candidate in annotation.candidates] == texts
        for candidate in annotation.candidates:
            assert candidate.ratings == true_ratings(files.image(index), candidate.text)


@pytest.mark.parametrize("name", JUDGES)
def test_written_answered_and_read_every_score_is_on_its_candidate(name: str, files: Files, batch) -> None:
    requests_path, replies_path = files.folder / "requests.jsonl", files.folder / "replies.jsonl"
    assert batch(name, write=requests_path).unlabelled == 6
    assert not (files.folder / "annotations.jsonl").exists() and attempts(files) == []
    serve(name, requests_path, replies_path)
    assert batch(name, read=replies_path, allow_failures=False).annotations == 6
    assert_right(files, 6)
    assert all(attempt["usage"] == {"input_tokens": 100, "output_tokens": 50} for attempt in attempts(files))
    assert len({tuple(attempt["order"]) for attempt in attempts(files)}) > 1, "candidates were shuffled"
    before = (files.folder / "annotations.ledger.jsonl").read_bytes()
    assert batch(name, read=replies_path).tally.calls == 0, "reading twice changes nothing"
    assert (files.folder / "annotations.ledger.jsonl").read_bytes() == before


def test_a_line_is_what_a_call_sends(files: Files, batch) -> None:
    batch("openai", write=files.folder / "requests.jsonl")
    (line, *_) = lines(files.folder / "requests.jsonl")
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    image = line["body"]["messages"][1]["content"][1]["image_url"]["url"]
    assert image.startswith("data:image/png;base64,") and line["body"]["model"] == "judge-1"
    batch("gemini", write=files.folder / "others.jsonl")
    (line, *_) = lines(files.folder / "others.jsonl")
    config = line["request"]["generationConfig"]
    assert list(config["responseSchema"]["properties"]) == ["my_answer", "ratings"]
    assert "responseJsonSchema" not in config and "test-key" not in json.dumps(line)


def test_the_manifest_tells_what_was_written_and_with_what(files: Files, batch) -> None:
    path = files.folder / "requests.jsonl"
    batch("gemini", write=path)
    manifest = json.loads(path.with_suffix(".manifest.json").read_text("utf-8"))
    assert (manifest["judge"], manifest["requests"], manifest["known"]) == ("judge-1", 6, 0)
    (described,) = manifest["files"]
    assert described["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (described["file"], described["requests"], described["bytes"]) == (path.name, 6, path.stat().st_size)


def test_only_what_the_ledger_lacks_is_written(files: Files, batch) -> None:
    first, second = files.folder / "first.jsonl", files.folder / "second.jsonl"
    batch("gemini", write=first)
    serve("gemini", first, files.folder / "replies.jsonl", {1: "500", 4: "reply_blocked"})
    batch("gemini", read=files.folder / "replies.jsonl")
    batch("gemini", write=second)
    assert [line["key"] for line in lines(second)] == [lines(first)[1]["key"]], "a blocked prompt is set aside"


@pytest.mark.parametrize("name", ["gemini", "openai"])
def test_failures_have_the_classes_of_calls(name: str, files: Files, batch) -> None:
    requests_path, replies_path = files.folder / "requests.jsonl", files.folder / "replies.jsonl"
    faults = ["429", "500", "reply_blocked", "token_limit", "out_of_range", "missing_candidate"]
    batch(name, write=requests_path)
    serve(name, requests_path, replies_path, dict(enumerate(faults)))
    for _ in range(2):  # the second time adds nothing
        summary = batch(name, read=replies_path)
        by_key = {attempt["key"]: attempt for attempt in attempts(files)}
        kinds = [by_key[line.get("key") or line["custom_id"]]["kind"] for line in lines(requests_path)]
        assert kinds == [FAULTS[fault].kind for fault in faults]
        assert len(attempts(files)) == 6 and (summary.annotations, summary.unlabelled) == (0, 6)
    assert all(attempt["raw"] for attempt in attempts(files))


def test_odd_lines_are_reported_by_number_and_the_others_count(files: Files, batch, caplog) -> None:
    caplog.set_level(logging.INFO)
    requests_path, replies_path = files.folder / "requests.jsonl", files.folder / "replies.jsonl"
    batch("gemini", write=requests_path)
    serve("gemini", requests_path, replies_path)
    good = replies_path.read_text("utf-8").splitlines()
    odd = [good[0], good[0], '{"response": {}}', "[]", json.dumps({"key": "0" * 32, "response": {}}), *good[1:5]]
    half = files.folder / "half.jsonl"
    half.write_text("\n".join([*odd, "", good[5][:50]]), "utf-8")
    assert batch("gemini", read=[half]).annotations == 5
    for number, problem in ((3, "no key"), (4, "not a JSON object"), (5, "no prompt of this run"), (11, "torn")):
        assert any(f"half.jsonl:{number}:" in line and problem in line for line in caplog.text.splitlines()), number
    assert "1 lines doubled, 4 not used" in caplog.text
    assert batch("gemini", read=[half, replies_path], allow_failures=False).annotations == 6
    assert_right(files, 6)


@pytest.mark.parametrize(
    ("name", "line", "kind"),
    [
        ("gemini", {"error": {"code": 8, "message": "quota"}}, "rate_limit"),
        ("gemini", {"error": {"code": 13, "message": "internal"}}, "server"),
        ("gemini", {"response": {"candidates": "x"}}, "server"),
        ("gemini", {}, "server"),
        ("openai", {"response": None, "error": {"code": "batch_expired", "message": "too late"}}, "server"),
        ("openai", {"response": {"status_code": 400, "body": {"error": {"code": "content_filter"}}}}, "safety"),
        ("openai", {"response": {"status_code": 200, "body": None}}, "server"),
        ("openai", {"response": {"status_code": "x"}}, "server"),
        ("anthropic", {"result": {"type": "expired"}}, "server"),
        (
            "anthropic",
            {"result": {"type": "errored", "error": {"error": {"type": "invalid_request_error"}}}},
            "bad_request",
        ),
        ("anthropic", {"result": {"type": "errored", "error": {"error": {"type": "overloaded_error"}}}}, "server"),
        ("anthropic", {"result": {"type": "succeeded", "message": None}}, "server"),
        ("anthropic", {"result": {"type": "succeeded"}}, "server"),
        ("anthropic", {}, "server"),
    ],
)
def test_lines_without_a_reply(name: str, line: dict, kind: str, files: Files, batch) -> None:
    batch(name, write=files.folder / "requests.jsonl")
    (asked, *_) = lines(files.folder / "requests.jsonl")
    name_of_key = "key" if name == "gemini" else "custom_id"
    (files.folder / "replies.jsonl").write_text(json.dumps({name_of_key: asked[name_of_key], **line}))
    batch(name, read=files.folder / "replies.jsonl")
    assert [attempt["kind"] for attempt in attempts(files)] == [kind]


def test_files_are_numbered_where_a_limit_is_reached(files: Files, batch) -> None:
    batch("gemini", write=files.folder / "a.jsonl", max_file_requests=4)
    assert [len(lines(files.folder / f"a-0000{number}.jsonl")) for number in (1, 2)] == [4, 2]
    assert not (files.folder / "a.jsonl").exists()
    batch("gemini", write=files.folder / "b.jsonl", max_file_mb=0.016)
    sizes = [path.stat().st_size for path in sorted(files.folder.glob("b-*.jsonl"))]
    assert len(sizes) > 1 and max(sizes) <= 16_000
    assert sum(len(lines(path)) for path in files.folder.glob("b-*.jsonl")) == 6
    with pytest.raises(UserError, match="more than batch.max_file_mb"):
        batch("gemini", write=files.folder / "c.jsonl", max_file_mb=0.001)
    assert not list(files.folder.glob("*c.jsonl*")) and not list(files.folder.glob(".*.tmp"))


def test_nothing_is_written_over_or_mixed_up(files: Files, batch, helpsteer: AttributeSchema) -> None:
    path = files.folder / "requests.jsonl"
    batch("gemini", write=path)
    with pytest.raises(UserError, match="would be paid twice"):
        batch("gemini", write=path)
    serve("gemini", path, files.folder / "replies.jsonl")
    with pytest.raises(UserError, match="none of the 6 replies belongs to a prompt of this run"):
        batch("gemini", judge={"temperature": 1.0}, read=files.folder / "replies.jsonl")
    with pytest.raises(UserError, match="no such file"):
        batch("gemini", read=files.folder / "absent.jsonl")
    with pytest.raises(ValueError, match="two runs"):
        batch("gemini", read=path, write=path)
    with pytest.raises(UserError, match="knows no batches"):
        settings = {"prompts": files.prompts_path, "candidates": files.candidates_path, "out": files.folder / "o.jsonl"}
        values = {**settings, "attribute_schema": helpsteer, "batch": {"write": files.folder / "x.jsonl"}}
        label(LabelSettings.model_validate(values), OracleJudge(helpsteer))


@pytest.mark.parametrize("name", list(JUDGES))
def test_a_file_that_holds_no_reply_leaves_no_trace(name: str, files: Files, batch) -> None:
    requests_path = files.folder / "requests.jsonl"
    batch(name, write=requests_path)
    for path, problem in ((requests_path, "a line of the requests"), (files.prompts_path, "no key")):
        with pytest.raises(
            UserError, match=f"no line of .*{path.name} is a reply of a batch. The first: .*:1: .*{problem}"
        ):
            batch(name, read=path)
    assert not lines(files.folder / "annotations.ledger.jsonl")
