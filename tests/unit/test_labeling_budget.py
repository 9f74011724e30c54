"""Budgets, the dry run, limits over a kill, and worker processes: real runs with a judge that costs tokens."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judge import JudgeRequest
from nemo_mm_align.labeling.judge_ledger import JudgeLedger
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.labeling.stage import label_from_config
from nemo_mm_align.labeling.worker_pool import WorkerPoolJudge
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.price import Price
from nemo_mm_align.llm.running import limits, progress
from nemo_mm_align.llm.running.budget import Budget, BudgetSettings
from nemo_mm_align.llm.running.estimates import EstimateSettings, TokenEstimator
from nemo_mm_align.llm.running.progress import Rate, Tally, describe_seconds, eta_seconds
from nemo_mm_align.llm.running.spending import Spending, Tokens
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Candidate, CandidateSet, Prompt, Turn, write_records
from tests.distributed import REPOSITORY
from tests.undrawn import leave_plots_undrawn
from tests.unit.paid_judge import DEADLY, MAX_OUTPUT_TOKENS, SLOW, calls_of
from tests.waiting import PATIENCE_S, wait_until

PRICE = {"input_per_million": 2.0, "output_per_million": 10.0}
COUNT = 40


class Stage:
    """A folder with prompts, and the stage run on it as `scripts/label.py` does."""

    def __init__(self, folder: Path, schema: AttributeSchema) -> None:
        self.folder, self.schema = folder, schema
        self.calls_path, self.ledger = folder / "calls.txt", folder / "out.ledger.jsonl"
        self.write({})

    def write(self, special: dict[int, str], count: int = COUNT) -> None:
        prompts = [
            Prompt(id=f"p{index}", turns=(Turn(role="user", content=f"Question {index}?" + " word" * (index % 9)),))
            for index in range(count)
        ]
        texts = [[special.get(index, f"an answer to {index}"), f"another to {index}"] for index in range(count)]
        candidates = [
            CandidateSet(prompt_id=prompt.id, candidates=tuple(Candidate(text=text) for text in pair))
            for prompt, pair in zip(prompts, texts, strict=True)
        ]
        write_records(self.folder / "prompts.jsonl", prompts)
        write_records(self.folder / "candidates.jsonl", candidates)

    def config(self, judge: dict | None = None, runner: dict | None = None, **changes: object) -> dict:
        target = {"_target_": "tests.unit.paid_judge.PaidJudge", "calls": str(self.calls_path), **(judge or {})}
        pace = {"concurrency": 8, "backoff_s": 0.01, "max_backoff_s": 0.02, **(runner or {})}
        files = {name: self.folder / f"{name}.jsonl" for name in ("prompts", "candidates", "out")}
        return {**files, "judge": target, "runner": pace, "attribute_schema": self.schema.model_dump(), **changes}

    def run(self, **changes: object) -> object:
        return label_from_config(self.config(**changes))

    def spent(self) -> Tokens:
        lines = [json.loads(line) for line in self.ledger.read_text().splitlines()]
        usage = [line.get("usage", {}) for line in lines]
        return Tokens(*(sum(each.get(f"{kind}_tokens", 0) for each in usage) for kind in ("input", "output")))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_plots_undrawn(monkeypatch)


@pytest.fixture
def stage(tmp_path: Path, helpsteer: AttributeSchema) -> Stage:
    return Stage(tmp_path, helpsteer)


def test_a_budget_in_tokens_is_never_exceeded_and_counts_earlier_runs(stage: Stage) -> None:
    for budget in (6_000, 12_000):
        with pytest.raises(UserError, match=r"the budget is used up: .* of a budget of .*would cost about [1-9]"):
            stage.run(judge={"latency": 0.005}, budget={"max_tokens": budget})
        spent = stage.spent().total
        # What is left is less than the worst call: 25 % more than any question so far, and the longest reply.
        assert budget - 1.3 * 1000 - MAX_OUTPUT_TOKENS < spent <= budget
    annotated = len((stage.folder / "out.jsonl").read_text().splitlines())
    assert annotated == len(calls_of(stage.calls_path)) and 8 <= annotated < COUNT
    summary = stage.run()
    assert summary.annotations == COUNT and len(calls_of(stage.calls_path)) == COUNT


def test_a_budget_in_money_needs_a_price_and_holds(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"budget.max_cost=0.02 needs the judge's price. Set judge.price.input_per_mil"):
        stage.run(budget={"max_cost": 0.02})
    assert calls_of(stage.calls_path) == [] and not stage.ledger.exists()
    with pytest.raises(
        UserError, match=r"0\.0\d+ USD, of a budget of 0.02 USD.* (\d+) of 40 prompts have no ann.* USD"
    ):
        stage.run(judge={"price": PRICE}, budget={"max_cost": 0.02})
    spent = stage.spent()
    assert 0.012 < Price(**PRICE).cost(spent.input, spent.output) <= 0.02
    with caplog.at_level("INFO"):
        stage.run(judge={"price": PRICE}, budget={"max_cost": 0.0201}, allow_failures=True)
    assert f"by earlier ones with these settings: {spent.input:,} input" in caplog.text


def test_a_budget_smaller_than_one_call_asks_nothing(stage: Stage) -> None:
    with pytest.raises(UserError, match="40 of 40 prompts have no annotation yet"):
        stage.run(budget={"max_tokens": 300})
    assert calls_of(stage.calls_path) == []


def test_what_nobody_knows_the_cost_of_is_said_and_counted(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.write({3: SLOW})
    stage.run(allow_failures=True, runner={"max_attempts": 2})
    assert "did not say what 2 calls cost; each counts as an average one" in caplog.text
    with JudgeLedger(stage.ledger, read_only=True) as ledger:
        known = next(iter(ledger._index.spending.values()))
    assert (known.answers, known.unknown) == (COUNT - 1, 2)
    average = stage.spent().total / (COUNT - 1)
    assert known.with_unknown(Tokens()).total == pytest.approx(stage.spent().total + 2 * average, rel=1e-3)
    silent = stage.config(judge={"says_usage": False}, budget={"max_tokens": 6_000}, out=stage.folder / "silent.jsonl")
    with pytest.raises(UserError, match="the budget is used up"):
        label_from_config(silent)


def test_failures_without_usage_cost_nothing_where_the_service_did_nothing() -> None:
    spending = Spending()
    for kind in ("rate_limit", "server", "auth", "bad_request", "timeout", "unparsable"):
        spending.add({}, kind)
    spending.add({"input_tokens": 10, "output_tokens": 4}, "unparsable")
    spending.add({"input_tokens": 30, "output_tokens": 6}, seconds=2.0)
    assert (spending.unknown, spending.tokens) == (2, Tokens(40, 10))
    assert (spending.mean_tokens, spending.mean_seconds) == (Tokens(30, 6), 2.0)
    assert spending.with_unknown(Tokens(1, 1)) == Tokens(100, 22)


def test_a_dry_run_counts_and_writes_nothing(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    judge = {"price": PRICE}
    before = sorted(stage.folder.iterdir())
    first = stage.run(judge=judge, dry_run=True, runner={"concurrency": 4, "requests_per_minute": 600})
    assert sorted(stage.folder.iterdir()) == before
    assert first.input_source == "counted by the service"
    assert first.output_source.startswith("assumed: estimate.output_tokens_per_candidate")
    assert "38,600" in capsys.readouterr().out and first.tokens == Tokens(38_600, COUNT * MAX_OUTPUT_TOKENS)
    assert first.work.to_do == COUNT and first.seconds == pytest.approx(COUNT * 10 / 4)
    with pytest.raises(UserError, match="budget is used up"):
        stage.run(judge=judge, budget={"max_tokens": 12_000})
    done = len(calls_of(stage.calls_path))
    after = sorted(stage.folder.iterdir())
    second = stage.run(judge=judge, dry_run=True, budget={"max_tokens": 14_000})
    assert sorted(stage.folder.iterdir()) == after and len(calls_of(stage.calls_path)) == done
    assert (second.work.known, second.work.to_do, second.spent) == (done, COUNT - done, stage.spent())
    assert second.output_source == f"mean of {done} replies in the ledger"
    assert "enough for about" in capsys.readouterr().out
    stage.run(judge=judge)
    spent = stage.spent()
    assert first.tokens.input == spent.input, "every prompt was in the sample"
    assert second.tokens.output == pytest.approx((spent - second.spent).output, rel=0.05)
    assert stage.run(judge=judge, dry_run=True).tokens == Tokens()


def test_without_counts_a_dry_run_guesses_and_says_so(stage: Stage) -> None:
    target = {"_target_": "tests.unit.paid_judge.UncountingJudge"}
    estimated = stage.run(judge=target, dry_run=True, estimate={"output_tokens_per_candidate": 60})
    assert estimated.input_source.startswith("guessed from the length")
    stage.run(judge=target)
    spent = stage.spent()
    assert estimated.tokens.input == pytest.approx(spent.input * 3 / 4, rel=0.01), "this judge counts 3 per token"
    assert estimated.tokens.output == pytest.approx(spent.output, rel=0.1)


def test_estimates_follow_what_the_service_counts() -> None:
    estimator = TokenEstimator(EstimateSettings(output_tokens_per_candidate=100), None, Spending())
    assert estimator.expected(1000, 4) == Tokens(1000, 400) and estimator.worst(1000, 4) == Tokens(2000, 800)
    for counted, output in ((1500, 500), (1300, 700)):
        estimator.observe(1000, Tokens(counted, output))
    assert estimator.expected(1000, 4) == Tokens(1400, 600) and estimator.worst(1000, 4) == Tokens(1875, 1200)
    assert TokenEstimator(EstimateSettings(), 50, Spending()).worst(10, 4) == Tokens(20, 50)


def test_reservations_give_back_what_calls_did_not_need() -> None:
    import threading

    budget, stop = Budget(BudgetSettings(max_tokens=100), None, Tokens(10, 10)), threading.Event()
    assert budget.reserve(Tokens(30, 30), stop)
    threading.Timer(0.1, budget.settle, (Tokens(30, 30), Tokens(10, 10))).start()
    assert budget.reserve(Tokens(30, 30), stop), "it waits for the call in flight, which turns out cheaper"
    budget.settle(Tokens(30, 30), Tokens(30, 30))
    assert budget.spent == Tokens(50, 50) and not budget.reserve(Tokens(1, 0), stop)


def test_eta_keeps_to_the_limit_and_knows_when_it_does_not_know() -> None:
    now = [0.0]
    rate, tally = Rate(lambda: now[0]), Tally(total=1000)
    assert eta_seconds(tally, rate.per_second(), None) is None and describe_seconds(None) == "?"
    for second in range(1, 101):
        now[0], tally.answered, tally.calls = float(second), 2 * second, 4 * second
        rate.update(tally.answered)
    assert rate.per_second() == pytest.approx(2.0, rel=0.02)
    assert eta_seconds(tally, rate.per_second(), None) == pytest.approx(400, rel=0.02)
    assert eta_seconds(tally, rate.per_second(), 60) == pytest.approx(800 / 0.5), "half of the calls fail"
    assert describe_seconds(3723.4) == "1:02:03"


def test_progress_is_logged_where_there_is_no_terminal(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    stage.write({0: SLOW})
    with caplog.at_level("INFO"):
        stage.run(judge={"latency": 0.2, "price": PRICE}, allow_failures=True, runner={"max_attempts": 1})
    lines = [record.message for record in caplog.records if "prompts done" in record.message]
    pattern = r"\d+ of 40 prompts done; [\d.]+ prompts/s, ETA \d:\d\d:\d\d, \d+ calls, [\d.]+% failed \(timeout 1\), "
    assert re.match(pattern + r"[\d,]+ input and [\d,]+ output tokens, 0\.\d+ USD", lines[-1]), lines


def test_a_limit_in_tokens_slows_the_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WINDOW_S", 1.0)  # a minute of one second
    monkeypatch.setattr(limits, "TRANSIT_S", 0.0)
    stage.write({}, 24)
    start, per_minute = time.monotonic(), 8_000
    stage.run(runner={"tokens_per_minute": per_minute})
    assert time.monotonic() - start >= stage.spent().total / per_minute - 1
    moments = departures(stage)
    assert len(moments) == 24
    most = max(sum(first <= moment < first + 0.99 for moment in moments) for first in moments)
    assert 5 <= most <= 10, "about 1,000 tokens each"


def group_exists(group: int) -> bool:
    """Whether a process of the group still runs; ended ones may wait long for whoever adopted them."""
    running = (process for process in psutil.process_iter(["status"]) if process.info["status"] != "zombie")
    return any(_group_of(process.pid) == group for process in running)


def _group_of(process: int) -> int | None:
    try:
        return os.getpgid(process)
    except ProcessLookupError:
        return None


def test_a_limit_holds_over_a_kill(stage: Stage) -> None:
    """Killed with calls in flight that no ledger knows, and started again at once. A minute has six seconds here."""
    config = json.dumps(stage.config(judge={"latency": 600.0}, runner={"requests_per_minute": 12_000}), default=str)
    code = (
        "import json; from nemo_mm_align.labeling.stage import label_from_config as run\n"
        "from nemo_mm_align.llm.running import limits; limits.WINDOW_S = 6.0\n"
        f"run(json.loads({config!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: len(calls_of(stage.calls_path)) == 8)
    process.kill()
    process.wait()
    before = departures(stage)
    changed = stage.config(runner={"requests_per_minute": 8, "concurrency": 1})
    code = code.replace(repr(config), repr(json.dumps(changed, default=str)))
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: len(calls_of(stage.calls_path)) >= 9)
    process.kill()
    process.wait()
    first_after = next(moment for moment in departures(stage) if moment > before[-1])
    assert len(before) == 8 and first_after >= before[0] + 6, "8 a minute, all of which left before the kill"


def departures(stage: Stage) -> list[float]:
    """When calls were let go, which is what limits are about; a call itself begins when its thread has its turn."""
    lines = stage.ledger.with_suffix(".departures").read_text().splitlines()
    return [float(line.split()[0]) for line in lines]


def test_worker_processes_share_the_calls_and_a_killed_one_is_replaced(stage: Stage) -> None:
    stage.write({5: DEADLY})
    runner = {"processes": 2, "concurrency": 4, "requests_per_minute": 6000}
    summary = stage.run(judge={"latency": 0.05}, runner=runner)
    assert summary.annotations == COUNT
    calls = calls_of(stage.calls_path)
    processes = {pid for pid, _, _ in calls}
    assert len(processes) in (2, 3) and os.getpid() not in processes
    failures = summary.tally.failures
    assert set(failures) == {"server"} and 1 <= failures["server"] <= 4, (
        "what it had in flight, and what came to it before"
    )
    assert COUNT < len(calls) <= COUNT + failures["server"], "a lost call may not have begun yet"
    lines = [json.loads(line) for line in stage.ledger.read_text().splitlines()]
    assert any("the worker process ended (exit code -9)" in line.get("message", "") for line in lines)
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_judge_that_no_worker_can_make_stops_the_run(stage: Stage) -> None:
    with pytest.raises(UserError, match=r"could not make the judge: UserError: not at home \(exit code 1\)"):
        stage.run(judge={"_target_": "tests.unit.paid_judge.HomelyJudge"}, runner={"processes": 2})
    assert calls_of(stage.calls_path) == []


def test_a_call_after_a_death_goes_to_a_new_process(stage: Stage) -> None:
    config, turns = stage.config()["judge"], (Turn(role="user", content="?"),)
    deadly, harmless = (
        JudgeRequest(Prompt(id=text, turns=turns), (text, "b"), (), stage.schema) for text in (DEADLY, "a")
    )
    with WorkerPoolJudge(build_judge(config, stage.schema), config, stage.schema, 1, 4) as pool:
        with pytest.raises(CallFailure, match=r"server: the worker process ended \(exit code -9\)"):
            pool.judge(deadly)
        assert pool.judge(harmless).ratings[0]["helpfulness"] == 1
    (first, _, _), (second, _, _) = calls_of(stage.calls_path)
    assert first != second


def test_ctrl_c_ends_worker_processes_too(stage: Stage) -> None:
    config = json.dumps(stage.config(judge={"latency": 1.5}, runner={"processes": 2}), default=str)
    code = (
        "import json\nfrom nemo_mm_align.labeling.stage import label_from_config as run\n"
        f"if __name__ == '__main__':\n    run(json.loads({config!r}))\n"
    )
    script = stage.folder / "run.py"
    script.write_text(code)
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
    }  # a script elsewhere finds the test's judge by this alone
    process = subprocess.Popen(
        [sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, env=environment
    )
    wait_until(lambda: len(calls_of(stage.calls_path)) >= 8)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes at once
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGINT, errors
    calls = calls_of(stage.calls_path)
    assert len(calls) < COUNT and len((stage.folder / "out.jsonl").read_text().splitlines()) == len(calls)
    wait_until(lambda: not group_exists(process.pid))


def test_failures_travel_between_processes() -> None:
    import pickle

    failure = CallFailure("rate_limit", "slow down", "raw", 3.5, {"input_tokens": 1})
    copy = pickle.loads(pickle.dumps(failure))
    assert vars(copy) == vars(failure) and str(copy) == str(failure)
