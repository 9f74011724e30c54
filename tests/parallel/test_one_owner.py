"""The same training twice at once: the second start ends with a sentence, the first is not disturbed."""

from __future__ import annotations

from pathlib import Path

from tests.parallel.test_training import STEPS, finish, losses, overrides, start
from tests.tiny import tiny_llava, training_data
from tests.waiting import wait_until


def test_a_second_start_of_a_training_ends_at_once_and_no_step_is_logged_twice(tmp_path: Path) -> None:
    words = overrides(
        tiny_llava(tmp_path / "model"), training_data(tmp_path, "sft"), tmp_path, "recipe=sft", "name=run"
    )
    first = start(1, *words)
    owner = tmp_path / "run/metrics/owner.json"
    wait_until(owner.exists, lambda: "ended" if first.poll() is not None else None)
    output = finish(start(1, *words), code=2)
    lines = output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"error: {tmp_path}/run: process {first.pid} on ")
    assert lines[0].endswith("writes it. Wait for its end, or end it; or give another exp_manager.name.")
    finish(first)
    assert [step for step, *_ in losses(tmp_path, "run")] == list(range(1, STEPS + 1)) and not owner.exists()
