"""The ledger: what was written stays, whatever interrupts the writing."""

import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nemo_mm_align.core import file_state
from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.labeling.judge_ledger import JudgeAttempt, JudgeLedger
from nemo_mm_align.llm.ledger import now
from nemo_mm_align.llm.running.spending import Tokens
from nemo_mm_align.schema import image_hashes
from nemo_mm_align.schema.image_hashes import ImageHashes
from nemo_mm_align.schema.images import read_file
from tests.waiting import wait_until


def attempt(key: str, status: str = "ok", **changes: object) -> JudgeAttempt:
    fields = {"ratings": [{"quality": 3}], "reasoning": ["ü"]} if status == "ok" else {"kind": "server", "message": "x"}
    return JudgeAttempt.model_validate(
        {"key": key, "prompt_id": "p", "configuration": "c", "order": [0], "status": status, **fields, **changes}
    )


def fill(path: Path, count: int) -> None:
    with JudgeLedger(path) as ledger:
        for index in range(count):
            ledger.add(attempt(f"k{index}", raw="r" * index))


def test_results_and_failures_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "a" / "ledger.jsonl"
    with JudgeLedger(path) as ledger:
        ledger.add_configuration("c", {"judge": "j"})
        ledger.add_configuration("c", {"judge": "j"})
        ledger.add(attempt("good", "failed", kind="unparsable", raw="{"))
        ledger.add(attempt("good"))
        for kind in ("server", "unparsable", "rate_limit", "safety"):
            ledger.add(attempt("bad", "failed", kind=kind))
    with JudgeLedger(path) as ledger:
        assert ledger.succeeded("good") and not ledger.succeeded("bad")
        assert next(ledger.results(["good"])).ratings == ({"quality": 3.0},)
        assert list(ledger.results(["bad"])) == [None]
        failures = ledger.failures("bad")
        assert (failures.total, failures.own, failures.permanent, failures.kind) == (4, 2, True, "safety")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 7 and lines[0]["judge"] == "j" and lines[1]["raw"] == "{"


def test_attempts_at_some_keys_are_found_whatever_their_letters(tmp_path: Path) -> None:
    with JudgeLedger(tmp_path / "ledger.jsonl") as ledger:
        ledger.add_configuration("c", {"judge": "j"})
        for key, status in (("a", "failed"), ('b"c', "ok"), ("d", "ok"), ("a", "ok")):
            ledger.add(attempt(key, status))
        found = [(one.key, one.status) for one in ledger.attempts({"a", 'b"c', "none"})]
        assert found == [("a", "failed"), ('b"c', "ok"), ("a", "ok")]
        assert len(list(ledger.attempts())) == 4


def test_a_line_torn_at_any_byte_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    fill(path, 3)
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for size in range(start, len(whole) + 1):
        path.write_bytes(whole[:size])
        with JudgeLedger(path) as ledger:
            complete = size >= len(whole) - 1  # only the line end may be missing
            assert ledger.succeeded("k1") and ledger.succeeded("k2") == complete
            ledger.add(attempt("k9"))
        with JudgeLedger(path) as ledger:
            assert [entry is not None for entry in ledger.results(["k0", "k2", "k9"])] == [True, complete, True]


def test_of_several_judgements_the_last_line_holds(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with JudgeLedger(path) as ledger:
        for revision in range(3):
            ledger.add(attempt("k", ratings=[{"quality": revision}], revision=revision))
            assert ledger.result("k").revision == revision
        ledger.add(attempt("k", "failed"))
    content = path.read_bytes()
    with JudgeLedger(path) as ledger:
        assert (ledger.result("k").ratings[0]["quality"], ledger.result("k").revision) == (2, 2)
    path.write_bytes(content[: content.index(b'"revision": 2') - 20])
    with JudgeLedger(path) as ledger:
        assert ledger.result("k").revision == 1, "a correction torn by a kill leaves what stood before"


def test_damage_inside_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    fill(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    for bad in (b"{nonsense\n", b"[1]\n", b'{"key": "k", "status": "failed"}\n', b"7\n"):
        path.write_bytes(lines[0] + bad + lines[2])
        with pytest.raises(RecordError, match=r"ledger.jsonl:2: .* Remedy: delete this line"):
            JudgeLedger(path)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with JudgeLedger(path):
        code = f"from nemo_mm_align.labeling.judge_ledger import JudgeLedger; JudgeLedger({str(path)!r})"
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "another run is writing this ledger" in second.stderr
    JudgeLedger(path).close()
    with JudgeLedger(path), pytest.raises(UserError, match="another run"):
        JudgeLedger(path)


FULL_DISK = """
import resource, signal, sys
from tests.unit.test_labeling_ledger import attempt
from nemo_mm_align.labeling.judge_ledger import JudgeLedger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
ledger = JudgeLedger(sys.argv[1])
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
    with JudgeLedger(tmp_path / "ledger.jsonl", fsync_every=every) as ledger:
        for index in range(5):
            ledger.add(attempt(f"k{index}"))
        assert len(calls) == expected
    assert len(calls) == expected + 1


def test_a_start_reads_what_earlier_runs_spent_and_asked_lately(tmp_path: Path) -> None:
    path, usage = tmp_path / "ledger.jsonl", {"input_tokens": 700, "output_tokens": 50}
    with JudgeLedger(path) as ledger:
        ledger.add(attempt("k1", usage=usage, seconds=2.5, time=now()))
        ledger.add(
            attempt("k2", "failed", kind="unparsable", usage=usage, seconds=1.0, time="2020-01-01T00:00:00+00:00")
        )
        ledger.add(attempt("k3", "failed", kind="timeout", time=now()))
        ledger.add(attempt("k4", configuration="other", usage=usage))
        live = ledger.spending("c")
    lines = path.read_text().splitlines()
    shuffled = [json.dumps(dict(reversed(json.loads(line).items()))) for line in lines]  # as other versions wrote them
    for content in (lines, shuffled):
        path.write_text("".join(line + "\n" for line in content))
        with JudgeLedger(path) as ledger:
            found = ledger.spending("c")
            assert found == live and (found.tokens, found.unknown) == (Tokens(1400, 100), 1)
            assert (found.mean_tokens, found.mean_seconds) == (Tokens(700, 50), 2.5)
            assert ledger.spending("other").answers == 1 and ledger.spending("none").answers == 0
            recent = sorted((round(time.time() - start), tokens) for start, tokens in ledger.recent_calls())
            assert [tokens for _, tokens in recent] == [0, 750] and recent[1][0] - recent[0][0] in (2, 3)


def test_read_only_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with JudgeLedger(path, read_only=True) as empty:
        assert not empty.succeeded("k0")
    assert not path.exists()
    fill(path, 3)
    torn = path.read_bytes()[:-9]
    path.write_bytes(torn)
    with JudgeLedger(path, read_only=True) as ledger, JudgeLedger(path, read_only=True):
        assert ledger.succeeded("k1") and not ledger.succeeded("k2")
    assert path.read_bytes() == torn


def test_threads_share_flushes_and_lose_no_line(tmp_path: Path, monkeypatch) -> None:
    path, calls = tmp_path / "ledger.jsonl", []

    def slow_flush(descriptor: int) -> None:
        if not calls:  # the first one lasts until all sixteen have written
            wait_until(lambda: path.read_bytes().count(b"\n") >= 16)
        calls.append(descriptor)

    monkeypatch.setattr(os, "fsync", slow_flush)
    with JudgeLedger(path) as ledger, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda index: ledger.add(attempt(f"k{index}", raw="x" * index)), range(16)))
        assert 1 <= len(calls) <= 2, "fifteen wait for one flush"
        list(pool.map(lambda index: ledger.add(attempt(f"k{index}", raw="x" * index)), range(16, 160)))
    with JudgeLedger(path) as ledger:
        results = list(ledger.results([f"k{index}" for index in range(160)]))
    assert [len(result.raw) for result in results] == list(range(160))


def test_what_was_known_at_the_start_is_told_from_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    fill(path, 1)
    with JudgeLedger(path) as ledger:
        ledger.add(attempt("new"))
        assert ledger.knew("k0") and ledger.succeeded("new") and not ledger.knew("new") and not ledger.knew("none")


def test_image_hashes_hold_as_long_as_the_file_does(tmp_path: Path, monkeypatch) -> None:
    reads: list[Path] = []
    monkeypatch.setattr(image_hashes, "read_file", lambda path: reads.append(path) or read_file(path))
    path, images = tmp_path / "a.images", [tmp_path / name for name in ("a.png", "b c\udcff.png", "c.png")]
    for image in images:
        image.write_bytes(image.name.encode(errors="surrogateescape"))

    def run(read_only: bool = False) -> list[Path]:
        reads.clear()
        hashes = ImageHashes(path, read_only)
        expected = [hashlib.sha256(image.read_bytes()).hexdigest() for image in images]
        assert [hashes.of(image) for image in images + images] == expected * 2
        hashes.save()
        return list(reads)

    assert run(read_only=True) == images and not path.exists()
    assert run() == images and run() == images, "what changed a moment ago is read again"
    monkeypatch.setattr(file_state, "SETTLED_S", -1.0)
    assert run() == images and run() == []
    time.sleep(0.02)
    images[0].write_bytes(b"z.png")
    os.utime(images[0], (1000, 1000))
    images[2].touch()
    assert run() == [images[0], images[2]] and run() == []
    images[0].unlink()
    with pytest.raises(UserError, match="no such image"):
        ImageHashes(path).of(images[0])
