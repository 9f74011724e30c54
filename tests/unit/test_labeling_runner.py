"""The stage as a whole, in one process, against the local server: right scores, retries, resume, stops."""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.labeling.stage import LabelSettings, LabelSummary, label
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, read_records
from tests.judge_server import (
    Exchange,
    Files,
    JudgeServer,
    Reply,
    error,
    generated,
    honest,
    judge_server,
    judgement,
    make_files,
    reference_answer,
    true_ratings,
)
from tests.undrawn import leave_plots_undrawn

KEY = "test-key-0123456789"
QUICK = {"backoff_s": 0.01, "max_backoff_s": 0.05, "concurrency": 4}

Run = Callable[..., LabelSummary]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_plots_undrawn(monkeypatch)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, 12)


@pytest.fixture
def run(files: Files, helpsteer: AttributeSchema, monkeypatch) -> Run:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)

    def run(
        server: JudgeServer, temperature: float = 0.0, runner: dict | None = None, **changes: object
    ) -> LabelSummary:
        settings = {
            "prompts": files.prompts_path,
            "candidates": files.candidates_path,
            "out": files.folder / "annotations.jsonl",
            "attribute_schema": helpsteer,
            "runner": {**QUICK, **(runner or {})},
            **changes,
        }
        judge = RubricJudge(Gemini("gemini-test", temperature=temperature, api_endpoint=server.address, timeout_s=60))
        return label(LabelSettings.model_validate(settings), judge)

    return run


def annotations(files: Files) -> list[Annotation]:
    return list(read_records(files.folder / "annotations.jsonl", Annotation))


def ledger_lines(files: Files) -> list[dict]:
    return [json.loads(line) for line in (files.folder / "annotations.ledger.jsonl").read_text("utf-8").splitlines()]


def assert_right(files: Files, leave_out: tuple[int, ...] = ()) -> None:
    """Every annotation holds, candidate by candidate, what the server thinks of that text and that image."""
    indices = [index for index in range(len(files.prompts)) if index not in leave_out]
    found = annotations(files)
    assert [annotation.prompt for annotation in found] == [files.prompts[index] for index in indices]
    for index, annotation in zip(indices, found, strict=True):
        image, candidates = files.image(index), files.candidates[index].candidates
        assert [candidate.text for candidate in annotation.candidates] == [candidate.text for candidate in candidates]
        for candidate in annotation.candidates:
            assert candidate.ratings == true_ratings(image, candidate.text)
            assert candidate.reasoning == f"on {candidate.text}".strip()
        assert annotation.reference_answer == reference_answer(image)


def test_scores_land_on_their_candidates_and_are_asked_for_once(run: Run, files: Files) -> None:
    with judge_server(delay=0.2) as server:
        summary = run(server)
        assert (summary.annotations, summary.unlabelled, summary.tally.answered) == (12, 0, 12)
        assert len(server.exchanges) == 12 and 2 <= server.most_in_flight <= 4
        assert_right(files)
        first = (files.folder / "annotations.jsonl").read_bytes()
        again = run(server)
        assert len(server.exchanges) == 12 and again.tally.reused == 12
    assert (files.folder / "annotations.jsonl").read_bytes() == first
    found = annotations(files)[0]
    assert (found.judge, found.schema_name) == ("gemini-test", "helpsteer")
    orders = {tuple(line["order"]) for line in ledger_lines(files) if "order" in line}
    assert len(orders) > 3, "candidates must be shuffled"


def test_each_fault_is_recorded_and_retried(run: Run, files: Files) -> None:
    def behaviour(exchange: Exchange) -> Reply | None:
        faults = {
            1: error(429, Retry_After="1"),
            2: error(500),
            3: Reply(generated("All of them are fine.")),
            4: Reply(generated('{"ratings": [', "MAX_TOKENS")),
            5: Reply(generated(json.dumps(judgement(exchange, verbosity=9)))),
            6: Reply(generated("", "RECITATION")),
            7: Reply(generated("{}"), cut=30),
        }
        return faults.get(exchange.number)

    with judge_server(behaviour) as server:
        summary = run(server)
    assert len(server.exchanges) == 12 + 7
    assert_right(files)
    expected = {"rate_limit", "server", "unparsable", "truncated", "out_of_range", "recitation"}
    assert set(summary.tally.failures) == expected and summary.tally.failures["server"] == 2
    lines = [line for line in ledger_lines(files) if "key" in line]
    assert Counter(line["status"] for line in lines) == {"ok": 12, "failed": 7}
    failed = {line["kind"]: line for line in lines if line["status"] == "failed"}
    assert all("ratings" not in line for line in failed.values())
    assert failed["unparsable"]["raw"] == "All of them are fine." and failed["rate_limit"]["retry_after"] == 1
    assert summary.tally.usage["input_tokens"] == 100 * (12 + 4), "unusable replies are paid too"


@pytest.mark.parametrize("status", [429, 503])
def test_nobody_calls_while_the_service_asks_to_wait(run: Run, files: Files, status: int) -> None:
    def behaviour(exchange: Exchange) -> Reply | None:
        if exchange.number == 3:
            return error(status, Retry_After="3")
        reply = honest(exchange)  # the others come back well after everybody knows, and well before the wait is over
        reply.delay = 1.5 if exchange.number < 3 else 0.0
        return reply

    with judge_server(behaviour) as server:
        run(server)
    attempts = [line for line in ledger_lines(files) if "key" in line]
    ended = {line["key"] + line["status"]: datetime.fromisoformat(line["time"]).timestamp() for line in attempts}
    (refused,) = (ended[line["key"] + "failed"] for line in attempts if line["status"] == "failed")
    starts = [ended[line["key"] + "ok"] - line["seconds"] - refused for line in attempts if line["status"] == "ok"]
    assert sum(start <= 0 for start in starts) == 3, "calls under way when it asked may end"
    assert sum(start >= 2.95 for start in starts) == 12 - 3


def test_a_poisoned_prompt_is_set_aside_and_named(run: Run, files: Files) -> None:
    def behaviour(exchange: Exchange) -> Reply | None:
        if exchange.images[0] == files.image(3):
            return Reply({"promptFeedback": {"blockReason": "SAFETY"}})
        if exchange.images[0] == files.image(8):
            return Reply(generated("I'd rather not."))
        return None

    with judge_server(behaviour) as server:
        with pytest.raises(
            UserError, match=r"2 of 12 prompts .*annotations\.unlabelled\.jsonl.*retry_set_aside"
        ) as caught:
            run(server, runner={"max_attempts": 3})
        assert re.search("The last call that failed: (safety|unparsable): ", str(caught.value))
        assert len(server.exchanges) == 10 + 1 + 3
        assert_right(files, leave_out=(3, 8))
        listed = (files.folder / "annotations.unlabelled.jsonl").read_text().splitlines()
        assert [(json.loads(line)["prompt_id"], json.loads(line)["kind"]) for line in listed] == [
            ("p3", "safety"),
            ("p8", "unparsable"),
        ]
        summary = run(server, allow_failures=True, runner={"max_attempts": 3})
        assert (summary.unlabelled, summary.tally.set_aside) == (2, 2) and len(server.exchanges) == 14
        server.behaviour = None
        assert run(server, runner={"retry_set_aside": True}).unlabelled == 0
    assert_right(files)
    assert not (files.folder / "annotations.unlabelled.jsonl").exists()


def test_failures_of_the_service_are_tried_again_by_the_next_run(run: Run, files: Files) -> None:
    def behaviour(exchange: Exchange) -> Reply | None:
        return error(503) if exchange.images[0] == files.image(0) else None

    with judge_server(behaviour) as server:
        with pytest.raises(UserError, match="1 of 12 prompts"):
            run(server, runner={"max_attempts": 2})
        server.behaviour = None
        assert run(server, runner={"max_attempts": 2}).tally.answered == 1
    assert len(server.exchanges) == 11 + 2 + 1
    assert_right(files)


def test_a_dead_service_stops_the_run_with_its_reason(run: Run, files: Files) -> None:
    def behaviour(exchange: Exchange) -> Reply | None:
        if exchange.number < 4:
            return None
        reply = error(500, "out of order")
        reply.delay = 0.3  # the failures begin after the successes have been noted
        return reply

    with judge_server(behaviour) as server:
        with pytest.raises(UserError, match=r"10 calls failed in a row.*server: HTTP 500.*out of order"):
            run(server, runner={"stop_after_failures": 10, "max_attempts": 100})
        assert 14 <= len(server.exchanges) <= 14 + 4
        assert len(annotations(files)) == 4, "what was judged before is written"
        server.behaviour = None
        assert run(server).tally.answered == 8
    assert_right(files)


def test_a_refused_key_stops_at_once(run: Run) -> None:
    with judge_server(lambda exchange: error(400, details=[{"reason": "API_KEY_INVALID"}])) as server:
        with pytest.raises(UserError, match="refused the credentials"):
            run(server)
        assert len(server.exchanges) <= 4


def test_another_temperature_or_reference_is_another_question(run: Run, files: Files, caplog) -> None:
    with judge_server() as server, caplog.at_level(logging.INFO):
        for changes in ({}, {"temperature": 0.7}, {"reference_answer": False}, {"temperature": 0.7}, {}):
            run(server, **changes)
    assert len(server.exchanges) == 3 * 12
    said = [record.getMessage() for record in caplog.records if record.name.endswith("announcement")]
    starts = [int(found[1]) for text in said if (found := re.search(r", ([0-9]+) of them judged before", text))]
    assert starts == [0, 0, 0, 12, 12]
    warnings = [text for text in said if "do not count here" in text]
    assert len(warnings) == 2, "only where nothing in the ledger counts"
    assert "holds 12 judgements" in warnings[0] and "(settings.temperature 0.0 -> 0.7)" in warnings[0]
    assert "(settings.temperature 0.7 -> 0.0, want_reference True -> False)" in warnings[1]
    configurations = [line for line in ledger_lines(files) if "key" not in line]
    assert [line["settings"]["temperature"] for line in configurations] == [0.0, 0.7, 0.0]
    assert configurations[0]["attribute_schema"]["name"] == "helpsteer"
    assert "Rubric:" in configurations[0]["settings"]["rubric_text"]


def test_the_same_question_under_two_ids_is_asked_once(run: Run, files: Files) -> None:
    twin = files.prompts[0].model_copy(update={"id": "twin"})
    candidates = files.candidates[0].model_copy(update={"prompt_id": "twin"})
    doubled = Files(files.folder, [*files.prompts, twin], [*files.candidates, candidates])
    doubled.write()
    with judge_server() as server:
        run(server)
        assert len(server.exchanges) == 12
    assert annotations(files)[12].candidates == annotations(files)[0].candidates
    assert annotations(files)[12].prompt.id == "twin"


def test_changed_image_bytes_are_a_new_question(run: Run, files: Files) -> None:
    with judge_server() as server:
        run(server)
        (files.folder / "images/0.png").write_bytes(files.image(3))
        run(server)
        assert len(server.exchanges) == 13
    assert_right(files)


def test_all_faults_of_the_input_are_named_before_any_call(run: Run, files: Files) -> None:
    (files.folder / "images/1.jpg").write_bytes(files.image(1)[:-200])
    (files.folder / "images/2.webp").unlink()
    stranger = files.candidates[0].model_copy(update={"prompt_id": "stranger"})
    twice = files.candidates[5].model_copy()
    broken = Files(files.folder, [*files.prompts, files.prompts[6]], [stranger, twice, *files.candidates[1:]])
    broken.write()
    with judge_server() as server, pytest.raises(UserError) as caught:
        run(server)
    text = str(caught.value)
    for expected in (
        "6 faults in the input; nothing was asked",
        f"{files.prompts_path}:1: prompt 'p0' has no candidates in {files.candidates_path}",
        f"{files.prompts_path}:2: {files.folder}/images/1.jpg",
        f"{files.prompts_path}:3: {files.folder}/images/2.webp: no such image",
        f"{files.prompts_path}:13: prompt id 'p6' stands twice",
        f"{files.candidates_path}:12: prompt 'p5' has candidates in line 7 already",
        f"{files.candidates_path}:13: candidates of prompt 'stranger'",
    ):
        assert expected in text
    assert not server.exchanges


def test_no_input_is_overwritten(run: Run, files: Files) -> None:
    before = files.prompts_path.read_bytes()
    with judge_server() as server:
        for changes in ({"out": files.prompts_path}, {"ledger": files.candidates_path}):
            with pytest.raises(ValidationError, match="must be different files"):
                run(server, **changes)
    assert files.prompts_path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_refused_before_any_call(run: Run, files: Files) -> None:
    with judge_server() as server:
        for changes in ({"out": files.folder / "images"}, {"ledger": files.folder / "images"}):
            with pytest.raises(UserError, match="a folder stands where a file is to be written"):
                run(server, **changes)
    assert not server.exchanges


def test_image_paths_hold_where_the_annotations_lie(run: Run, files: Files, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other" / "annotations.jsonl"
    with judge_server() as server:
        run(server, out=elsewhere)
        assert next(read_records(elsewhere, Annotation)).prompt.images == (str(files.folder / "images/0.png"),)
        run(server, out=elsewhere, image_root=files.folder)
        assert next(read_records(elsewhere, Annotation)).prompt.images == ("images/0.png",)
        assert len(server.exchanges) == 12


def test_key_is_in_no_file_and_no_log(run: Run, files: Files, caplog) -> None:
    def behaviour(exchange: Exchange) -> Reply | None:
        return error(500, f"failed for {exchange.headers['x-goog-api-key']}") if exchange.number % 3 == 0 else None

    with judge_server(behaviour) as server, caplog.at_level(logging.DEBUG):
        run(server, runner={"max_attempts": 100})  # threads in turn may give one prompt every third number
    written = [path.read_bytes() for path in files.folder.rglob("*") if path.is_file()]
    assert any(b"failed for [API key]" in content for content in written)
    assert not any(KEY.encode() in content for content in written)
    assert "gemini-test" in caplog.text and KEY not in caplog.text
