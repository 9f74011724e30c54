"""Labelling killed twenty times with no chance to tidy up: nothing is lost, and only what was in flight is paid twice."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from nemo_mm_align.benchmarks.dying_label import TORN_BYTES, Death, LabelStarter, label_starter
from nemo_mm_align.benchmarks.judge_server.process import wait_until_alone
from nemo_mm_align.labeling.judge_ledger import JudgeLedger
from tests.e2e.test_label import KEY, assert_complete, attempts, without_replies_from
from tests.judge_server import Files, JudgeServer, judge_server, make_files
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

PROMPTS, KILLS, CONCURRENCY = 300, 20, 4
DEATHS: dict[int, Death] = {4: "before_line", 9: "torn_line", 14: "before_line", 17: "torn_line"}
"""Of these kills the moment is exact; that of the others is random."""


class KilledRuns:
    """Runs over the same files, each killed, and what each kill cost."""

    def __init__(self, files: Files, server: JudgeServer, starter: LabelStarter) -> None:
        self.files, self.server, self.starter = files, server, starter
        self.rng, self.lost = random.Random(7), Counter[str]()
        self.ledger = files.folder / "annotations.ledger.jsonl"
        self.arguments = ["prompts=prompts.jsonl", "candidates=candidates.jsonl", "out=annotations.jsonl"]
        self.arguments += [f"judge.api_endpoint={server.address}", f"runner.concurrency={CONCURRENCY}"]

    def kill(self, number: int) -> None:
        """Start a run, let it be killed, and note which questions were paid without leaving a line."""
        known, asked = self.known(), len(self.server.exchanges)
        if death := DEATHS.get(number):
            self.starter.start(self.arguments, death, at=self.rng.randrange(5, 12))
            assert self.starter.wait() == -(signal.SIGXFSZ if death == "torn_line" else signal.SIGKILL)
        else:
            count = asked + self.rng.randrange(4, 14)
            self.server.behaviour = without_replies_from(count + CONCURRENCY)  # the kill may come late, not too late
            child = self.starter.start(self.arguments)
            wait_until(lambda: len(self.server.exchanges) >= count, lambda: self.ended(child))
            time.sleep(self.rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            assert self.starter.wait() == -signal.SIGKILL
            self.server.behaviour = None
        wait_until_alone(self.server.address)
        if death:  # one at random may hit a write as well
            torn = not self.ledger.read_bytes().endswith(b"\n")
            assert torn == (death == "torn_line")
        paid = {exchange.question for exchange in self.server.exchanges[asked:]}
        assert not paid & known, "what the ledger knows is not asked again"
        lost = paid - self.known()
        assert len(lost) <= CONCURRENCY and (lost or not death)
        self.lost.update(lost)

    def known(self) -> set[str]:
        """Questions that the ledger, opened as the next run opens it, has an answer to."""
        if not self.ledger.exists():
            return set()
        copy = shutil.copy(self.ledger, self.ledger.with_name("copy.jsonl"))
        with JudgeLedger(copy) as ledger:
            lines = attempts(self.files, copy)
            assert all(ledger.succeeded(line["key"]) for line in lines)
        Path(copy).unlink()
        return {self.files.question(int(line["prompt_id"][1:])) for line in lines}

    def ended(self, child: int) -> str | None:
        return None if Path(f"/proc/{child}").exists() else (self.files.folder / "output.txt").read_text()


def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    files = make_files(tmp_path, PROMPTS)
    environment = {**os.environ, "GEMINI_API_KEY": KEY}
    with judge_server(delay=0.02) as server, label_starter(tmp_path, environment) as starter:
        runs = KilledRuns(files, server, starter)
        for number in range(KILLS):
            runs.kill(number)
        assert 20 < len(runs.known()) < PROMPTS, "the kills fell into the work, not after it"
        assert runs.lost.total() >= len(DEATHS)
        starter.start(runs.arguments)
        assert starter.wait() == 0, (tmp_path / "output.txt").read_text()
    paid = Counter(exchange.question for exchange in server.exchanges)
    assert paid - runs.lost == Counter(files.question(index) for index in range(PROMPTS)), (
        "paid twice: the lost, once each"
    )
    assert set(Counter(line["key"] for line in attempts(files)).values()) == {1} and len(attempts(files)) == PROMPTS
    assert_complete(files)
    output = (tmp_path / "output.txt").read_text()
    assert output.count(f"dropped a torn last line of {TORN_BYTES} bytes") == 2 and "Traceback" not in output
