"""`tests/serving_fuzz.py` in small: a few hundred random clients against one server; the program itself takes ten thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.decoding_model import make_folder
from tests.fuzzed_traffic import KINDS, shot, unlimited_json
from tests.serving_fuzz import SETTINGS, Found, fuzz, judge
from tests.serving_process import serving

pytestmark = pytest.mark.e2e

CLIENTS = 300


def test_no_client_breaks_the_server_or_changes_what_another_is_answered(tmp_path: Path) -> None:
    make_folder(tmp_path / "model")
    with serving(tmp_path, f"checkpoint={tmp_path}/model", *SETTINGS) as server:
        found = fuzz(server, 1, range(CLIENTS), warm=40)
    assert found.faults == [] and found.probes > 0
    assert all(found.statuses[status] > 0 for status in ("200", "400", "401", "404", "405", "408", "no answer"))
    assert sum(found.statuses.values()) >= CLIENTS


def test_a_client_is_the_same_each_time_and_all_kinds_come() -> None:
    with unlimited_json():
        first, again = ([shot(1, number) for number in range(CLIENTS)] for _ in range(2))
    assert first == again and len({one.kind for one in first}) == len(KINDS)


def test_what_no_server_should_say_is_found() -> None:
    found = Found()
    judge(b"HTTP/1.1 200 OK\r\n\r\n{}HTTP/1.1 503 x\r\n\r\n", found, "fine")
    assert not found.faults
    judge(b"HTTP/1.1 500 x\r\n\r\n{}", found, "one")
    judge(b'HTTP/1.1 200 OK\r\n\r\ndata: {"error":{"code":"engine_failed"}}', found, "two")
    assert [fault[:3] for fault in found.faults] == ["one", "two"] and found.statuses["200"] == 2
