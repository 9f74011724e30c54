"""The labelling benchmark at its smallest: what it counts adds up."""

import os
from pathlib import Path

import pytest
import yaml

from nemo_mm_align.benchmarks import report
from nemo_mm_align.benchmarks.labeling import measure_labeling
from nemo_mm_align.core.errors import UserError

pytestmark = pytest.mark.e2e


def settings(repository: Path, **changes: object) -> dict:
    sizes = yaml.safe_load((repository / "conf/benchmark/size/smoke.yaml").read_text(encoding="utf-8"))
    return {**sizes["labeling"], **changes}


def test_rate(repository: Path, tmp_path: Path) -> None:
    """Speed is the machine's affair; asserted is what holds at any speed."""
    few = settings(repository, measures=["images"], processes=[1], image_prompts=32)
    found = measure_labeling(few, tmp_path)
    (rate,) = found["images"]
    assert 32 / rate["seconds"] < rate["rate"], "calls take no longer than the run that makes them"
    assert rate["share"] == pytest.approx(rate["rate"] * few["delay_s"] / few["concurrency"])
    assert rate["share"] < 1.001, "no more calls in flight than allowed, none shorter than the latency"
    for cpu, seconds in (("cpu_seconds", "seconds"), ("cpu_seconds_without_calls", "seconds_without_calls")):
        assert 0.1 < rate[cpu] < (rate[seconds] + 0.1) * (os.cpu_count() or 1), "Python's start alone takes more"
    calls = rate["cpu_seconds"] - rate["cpu_seconds_without_calls"]
    assert 32 * rate["cpu_seconds_per_call"] == pytest.approx(calls)
    assert "| 32 336 x 336 images, processes: 1 |" in report.labeling(found)
    assert not list(tmp_path.iterdir())


def test_the_cost_of_a_call_is_told_where_calls_outweigh_the_start() -> None:
    rate = {
        "prompts": 4800, "images": 0, "processes": 1, "rate": 152.6, "share": 0.954, "cpu_seconds_per_call": 0.0038,
        "cpu_seconds_without_calls": 2.0, "seconds_without_calls": 2.5, "load_after": 1.0,
    }  # fmt: skip
    assert "| 95.4% | 3.8 ms | 2.50 s |" in report.labeling({"text": [rate]})
    for few in ({"prompts": 32}, {"cpu_seconds_per_call": -7e-5}):
        assert "| 95.4% | too few calls to tell | 2.50 s |" in report.labeling({"text": [rate | few]})


def test_kills(repository: Path, tmp_path: Path) -> None:
    # Slow enough for the kill to come long before the end.
    few = settings(repository, measures=["kills"], delay_s=0.15, kills=3, kill_prompts=90)
    found = measure_labeling(few, tmp_path)
    kills = found["kills"]
    assert (kills["annotations"], kills["missing"], kills["lines_twice"], kills["paid_twice_beyond"]) == (90, 0, 0, 0)
    assert kills["requests"] == 90 + kills["in_flight_at_kills"]
    assert 1 <= kills["torn_lines"] <= 2, "the kill inside a write, and a random one may hit a write as well"
    assert 2 <= kills["in_flight_at_kills"] <= 3 * few["concurrency"]
    assert "90 annotations, 0 missing" in report.labeling(found)
    assert not list(tmp_path.iterdir())


def test_an_unknown_measurement_is_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose from text, images, limit, kills, scale"):
        measure_labeling(settings(repository, measures=["texts"]), tmp_path)
