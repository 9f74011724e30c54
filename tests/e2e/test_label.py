"""`scripts/label.py` as a user runs it: a process of its own, killed and started again."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from nemo_mm_align.benchmarks.judge_server.faults import NEVER_S
from nemo_mm_align.benchmarks.judge_server.process import wait_until_alone
from nemo_mm_align.schema.records import Annotation, read_records
from tests.judge_server import (
    Behaviour,
    Exchange,
    Files,
    JudgeServer,
    Reply,
    error,
    honest,
    judge_server,
    make_files,
    true_ratings,
)
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.e2e

KEY = "AIza-secret-0123456789"
CONCURRENCY = 4


class Command:
    """The command line of a labelling run in a folder."""

    def __init__(self, repository: Path, files: Files, server: JudgeServer | None) -> None:
        self.files, self.server = files, server
        self.environment = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
        self.environment |= {"GEMINI_API_KEY": KEY, "PYTHONPATH": str(repository)}
        self.script = repository / "scripts/label.py"

    def arguments(self, *overrides: str) -> list[str]:
        paths = [f"{name}={name}.jsonl" for name in ("prompts", "candidates")]
        address = [f"judge.api_endpoint={self.server.address}"] if self.server else []
        pace = [f"runner.concurrency={CONCURRENCY}", "runner.backoff_s=0.01"]
        return [sys.executable, str(self.script), *paths, "out=annotations.jsonl", *address, *pace, *overrides]

    def start(self, *overrides: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(self.arguments(*overrides), cwd=self.files.folder, env=self.environment, **pipes)

    def run(self, *overrides: str) -> tuple[int, str]:
        process = self.start(*overrides)
        output, errors = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output + errors


def attempts(files: Files, ledger: Path | None = None) -> list[dict]:
    path = ledger or files.folder / "annotations.ledger.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    return [value for line in lines if "key" in (value := json.loads(line))]


def assert_complete(files: Files) -> None:
    found = list(read_records(files.folder / "annotations.jsonl", Annotation))
    assert [annotation.prompt.id for annotation in found] == [prompt.id for prompt in files.prompts]
    for index, annotation in enumerate(found):
        for candidate in annotation.candidates:
            assert candidate.ratings == true_ratings(files.image(index), candidate.text)


def wait_for(server: JudgeServer, count: int, process: subprocess.Popen) -> None:
    def fault() -> str | None:
        return None if process.poll() is None else "".join(process.communicate())

    wait_until(lambda: len(server.exchanges) >= count, fault)


def without_replies_from(number: int) -> Behaviour:
    """A service that lets all requests wait from this one on: however late a kill comes, it comes within the work."""

    def behaviour(exchange: Exchange) -> Reply | None:
        return None if exchange.number < number else Reply("{}", delay=NEVER_S)

    return behaviour


def test_a_killed_command_goes_on_where_it_was(tmp_path: Path, repository: Path) -> None:
    """Once, as a user does it; `test_label_kills.py` does it twenty times without the time that Python takes to start."""
    files = make_files(tmp_path, 60)
    with judge_server(without_replies_from(30), delay=0.03) as server:
        command = Command(repository, files, server)
        process = command.start()
        wait_for(server, 20, process)
        process.kill()
        process.communicate()
        wait_until_alone(server.address)
        server.behaviour = None
        known, before = len({attempt["key"] for attempt in attempts(files)}), len(server.exchanges)
        assert 20 - CONCURRENCY <= known <= 30 and before - known <= CONCURRENCY
        code, output = command.run()
        assert code == 0, output
        assert len(server.exchanges) - before == 60 - known, "what the ledger knows is not asked again"
    assert_complete(files)
    assert set(Counter(attempt["key"] for attempt in attempts(files)).values()) == {1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_calls_in_flight_end(tmp_path: Path, repository: Path, number: signal.Signals) -> None:
    files = make_files(tmp_path, 40)

    def behaviour(exchange: Exchange) -> Reply:
        reply = honest(exchange)
        reply.delay = 0.0 if exchange.number < 8 else 2.0  # a signal that is noticed late still finds calls in flight
        return reply

    with judge_server(behaviour) as server:
        command = Command(repository, files, server)
        process = command.start()
        wait_for(server, 10, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 128 + number, errors
        asked = len(server.exchanges)
        assert asked < 40 and len(attempts(files)) == asked, "each call that was made is in the ledger"
        assert len(list(read_records(files.folder / "annotations.jsonl", Annotation))) == asked
        server.behaviour = None
        assert command.run()[0] == 0
        assert len(server.exchanges) == 40
    assert_complete(files)


def test_key_is_in_no_output_even_when_all_is_logged(tmp_path: Path, repository: Path) -> None:
    files = make_files(tmp_path, 6)

    def behaviour(exchange: Exchange) -> Reply | None:
        if exchange.images[0] == files.image(2):
            return error(400, f"bad request with {exchange.headers['x-goog-api-key']}")
        return None

    with judge_server(behaviour) as server:
        code, output = Command(repository, files, server).run("hydra.verbose=true")
    assert code == 2 and "1 of 6 prompts have no annotation" in output and "Traceback" not in output
    assert '"POST /v1beta' in output, "the check means something only if debug messages were there"
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert b"bad request with [API key]" in b"".join(contents)
    assert not any(KEY.encode() in content for content in [*contents, output.encode()])
    assert not (tmp_path / "outputs").exists() and not list(tmp_path.glob("*.log"))


def test_mistakes_are_named_with_exit_code_2(tmp_path: Path, repository: Path) -> None:
    files = make_files(tmp_path, 2)
    command = Command(repository, files, None)
    cases = {
        ("prompts=absent.jsonl",): "absent.jsonl: no such file",
        ("attribute_schema.score=[kindness]",): "score names unknown attributes ['kindness']",
        ("runner.concurrency=0",): "runner.concurrency",
        ("judge.api_key_file=absent",): "judge.api_key_file=absent cannot be read",
    }
    for overrides, expected in cases.items():
        code, output = command.run(*overrides)
        assert code == 2 and expected in output and "Traceback" not in output, output
    del command.environment["GEMINI_API_KEY"]
    code, output = command.run()
    assert code == 2 and "no API key for Gemini" in output
    code, output = command.run("judge.api_key=x")
    assert code != 0 and "api_key" in output
