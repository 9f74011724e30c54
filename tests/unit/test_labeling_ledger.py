"""The ledger: what was written stays, whatever interrupts the writing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.errors import RecordError, UserError
from nemo_mm_align.labeling.ledger import Attempt, Ledger


def attempt(key: str, status: str = "ok", **changes: object) -> Attempt:
    fields = {"ratings": [{"quality": 3}], "reasoning": ["ü"]} if status == "ok" else {"kind": "server", "message": "x"}
    return Attempt.model_validate(
        {"key": key, "prompt_id": "p", "configuration": "c", "order": [0], "status": status, **fields, **changes}
    )


def fill(path: Path, count: int) -> None:
    with Ledger(path) as ledger:
        for index in range(count):
            ledger.add(attempt(f"k{index}", raw="r" * index))


def test_results_and_failures_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "a" / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.add_configuration("c", {"judge": "j"})
        ledger.add_configuration("c", {"judge": "j"})
        ledger.add(attempt("good", "failed", kind="unparsable", raw="{"))
        ledger.add(attempt("good"))
        for kind in ("server", "unparsable", "rate_limit", "safety"):
            ledger.add(attempt("bad", "failed", kind=kind))
    with Ledger(path) as ledger:
        assert ledger.succeeded("good") and not ledger.succeeded("bad")
        assert next(ledger.results(["good"])).ratings == ({"quality": 3.0},)
        assert list(ledger.results(["bad"])) == [None]
        failures = ledger.failures("bad")
        assert (failures.total, failures.own, failures.permanent, failures.kind) == (4, 2, True, "safety")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 7 and lines[0]["judge"] == "j" and lines[1]["raw"] == "{"


def test_a_line_torn_at_any_byte_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    fill(path, 3)
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for size in range(start, len(whole) + 1):
        path.write_bytes(whole[:size])
        with Ledger(path) as ledger:
            complete = size >= len(whole) - 1  # only the line end may be missing
            assert ledger.succeeded("k1") and ledger.succeeded("k2") == complete
            ledger.add(attempt("k9"))
        with Ledger(path) as ledger:
            assert [entry is not None for entry in ledger.results(["k0", "k2", "k9"])] == [True, complete, True]


def test_damage_inside_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    fill(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    for bad in (b"{nonsense\n", b"[1]\n", b'{"key": "k", "status": "failed"}\n', b"7\n"):
        path.write_bytes(lines[0] + bad + lines[2])
        with pytest.raises(RecordError, match=r"ledger.jsonl:2: .* Remedy: delete this line"):
            Ledger(path)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path):
        code = f"from nemo_mm_align.labeling.ledger import Ledger; Ledger({str(path)!r})"
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "another run is writing this ledger" in second.stderr
    Ledger(path).close()
    with Ledger(path), pytest.raises(UserError, match="another run"):
        Ledger(path)


FULL_DISK = """
import resource, signal, sys
from tests.unit.test_labeling_ledger import attempt
from nemo_mm_align.labeling.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
ledger = Ledger(sys.argv[1])
try:
    for index in range(100):
        ledger.add(attempt(f"k{index}"))
except OSError as error:
    print(index, error.filename)
"""


def test_a_write_that_does_not_fit_leaves_whole_lines(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    index, name = result.stdout.split()
    assert name == str(path) and 1 < int(index) < 100
    content = path.read_bytes()
    assert content.endswith(b"\n") and len(content.splitlines()) == int(index)


@pytest.mark.parametrize(("every", "expected"), [(1, 5), (2, 2), (100, 0)])
def test_fsync_is_called_as_often_as_asked(tmp_path: Path, monkeypatch, every: int, expected: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    with Ledger(tmp_path / "ledger.jsonl", fsync_every=every) as ledger:
        for index in range(5):
            ledger.add(attempt(f"k{index}"))
        assert len(calls) == expected
    assert len(calls) == expected + 1
