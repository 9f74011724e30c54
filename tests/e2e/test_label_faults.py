"""Labelling against a service that fails in every way it knows: each failure in its class, none of them a result."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_mm_align.benchmarks.judge_server.faults import PASSING
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.labeling.stage import LabelSettings, LabelSummary, label
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.llm.failures import PERMANENT_KINDS
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, read_records
from tests.judge_server import (
    FAULTS,
    RETRY_AFTER_S,
    FaultPlan,
    Files,
    JudgeServer,
    judge_server,
    make_files,
    true_ratings,
)

pytestmark = pytest.mark.e2e

KEY = "AIza-secret-0123456789"
SCHEDULE = {3 + 2 * number: name for number, name in enumerate(sorted(FAULTS))}
BODILESS = {"slow", "stall", "cut", "reset"}
"""Faults whose reply is not whole: there is nothing to keep."""
PAID = {"prompt_blocked", "reply_blocked", "recitation", "token_limit", "prose", "out_of_range", "missing_candidate"}
"""Faults of a reply that the service made, and counts."""

Run = Callable[..., LabelSummary]


@pytest.fixture
def run(tmp_path: Path, helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)

    def run(server: JudgeServer, files: Files, timeout_s: float = 5, **changes: object) -> LabelSummary:
        paths = {"prompts": files.prompts_path, "candidates": files.candidates_path, "out": tmp_path / "out.jsonl"}
        runner = {"concurrency": 4, "backoff_s": 0.01, "max_backoff_s": 0.05, "max_attempts": 40}
        settings = {**paths, "attribute_schema": helpsteer, "runner": runner, **changes}
        judge = RubricJudge(Gemini("gemini-test", api_endpoint=server.address, timeout_s=timeout_s))
        return label(LabelSettings.model_validate(settings), judge)

    return run


def attempts_by_prompt(folder: Path) -> dict[str, list[dict]]:
    found = defaultdict(list)
    for line in (folder / "out.ledger.jsonl").read_text("utf-8").splitlines():
        if "key" in (value := json.loads(line)):
            found[value["prompt_id"]].append(value)
    return found


def assert_right(files: Files, folder: Path, leave_out: set[str]) -> None:
    """Every prompt but those left out has an annotation, each candidate with its own ratings."""
    found = {annotation.prompt.id: annotation for annotation in read_records(folder / "out.jsonl", Annotation)}
    assert set(found) == {prompt.id for prompt in files.prompts} - leave_out
    for index, prompt in enumerate(files.prompts):
        for candidate in found[prompt.id].candidates if prompt.id in found else ():
            assert candidate.ratings == true_ratings(files.image(index), candidate.text)


def test_every_failure_is_recorded_in_its_class_and_the_rest_is_labelled(run: Run, tmp_path: Path) -> None:
    files = make_files(tmp_path, 60)
    with judge_server(FaultPlan(SCHEDULE)) as server:
        summary = run(server, files, allow_failures=True)
    assert {exchange.fault for exchange in server.exchanges} == {"", *FAULTS}, "each fault was injected"
    attempts, blocked = attempts_by_prompt(tmp_path), set()
    for index, prompt in enumerate(files.prompts):
        faults = [exchange.fault for exchange in server.exchanges if exchange.question == files.question(index)]
        for fault, line in zip(faults, attempts[prompt.id], strict=True):
            check_line(line, fault)
        if attempts[prompt.id][-1]["status"] == "failed":
            assert FAULTS[faults[-1]].kind in PERMANENT_KINDS
            blocked.add(prompt.id)
    assert Counter(summary.tally.failures) == Counter(FAULTS[name].kind for name in SCHEDULE.values())
    assert (summary.unlabelled, len(server.exchanges)) == (len(blocked), 60 + len(FAULTS) - len(blocked))
    assert len(blocked) == 2
    assert_right(files, tmp_path, leave_out=blocked)


def check_line(line: dict, fault: str) -> None:
    """One attempt in the ledger must say what the server did."""
    assert line["status"] == ("failed" if fault else "ok") and ("ratings" in line) == (not fault)
    if fault:
        assert line["kind"] == FAULTS[fault].kind and line["message"]
        assert line.get("raw") or fault in BODILESS, fault
        assert ("usage" in line) == (fault in PAID), fault
        wanted = 0 if fault == "429_date" else RETRY_AFTER_S  # of the time until a date some has passed on the way
        assert (line.get("retry_after", -1) >= wanted) == fault.startswith("429_"), fault


def test_a_service_that_fails_every_third_call_is_outlasted(run: Run, tmp_path: Path) -> None:
    files = make_files(tmp_path, 150)
    plan = FaultPlan(probability=1 / 3, names=(*PASSING, "prose", "missing_candidate", "out_of_range"), seed=5)
    with judge_server(plan) as server:
        summary = run(server, files)
    failed = sum(bool(exchange.fault) for exchange in server.exchanges)
    assert failed > 50 and summary.tally.failures.total() == failed
    assert summary.tally.calls == len(server.exchanges) == 150 + failed, "a success is never asked for again"
    statuses = Counter(line["status"] for lines in attempts_by_prompt(tmp_path).values() for line in lines)
    assert statuses == {"ok": 150, "failed": failed}
    assert_right(files, tmp_path, leave_out=set())


@pytest.mark.parametrize("fault", ["slow", "stall", "reset", "page", "cut"])
def test_a_service_that_does_nothing_else_stops_the_run_in_time(run: Run, tmp_path: Path, fault: str) -> None:
    files = make_files(tmp_path, 12)
    reason = f"5 calls failed in a row.*{FAULTS[fault].kind}"
    broken = FaultPlan(probability=1.0, names=(fault,))
    timeout_s = 1 if FAULTS[fault].kind == "timeout" else 60
    with judge_server(broken) as server, pytest.raises(UserError, match=reason):
        run(server, files, timeout_s, runner={"concurrency": 4, "backoff_s": 0.01, "stop_after_failures": 5})
    assert 5 <= len(server.exchanges) <= 5 + 4
    assert not (tmp_path / "out.jsonl").exists()
