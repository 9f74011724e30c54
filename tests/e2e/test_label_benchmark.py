"""The labelling benchmark at its smallest: what it counts adds up."""

from pathlib import Path

import pytest
import yaml

from nemo_mm_align.benchmarks import report
from nemo_mm_align.benchmarks.labeling import measure_labeling
from nemo_mm_align.errors import UserError

pytestmark = pytest.mark.e2e


def settings(repository: Path, **changes: object) -> dict:
    sizes = yaml.safe_load((repository / "conf/size/smoke.yaml").read_text(encoding="utf-8"))
    return {**sizes["labeling"], **changes}


def test_rate_and_kills(repository: Path, tmp_path: Path) -> None:
    few = settings(repository, measures=["images", "kills"], processes=[1], image_prompts=32, kills=3, kill_prompts=90)
    found = measure_labeling(few, tmp_path)
    (rate,) = found["images"]
    assert 0.05 < rate["share"] <= 1.0 and 0 < rate["cpu_seconds_per_call"] < 1
    kills = found["kills"]
    assert (kills["annotations"], kills["missing"], kills["lines_twice"], kills["paid_twice_beyond"]) == (90, 0, 0, 0)
    assert kills["requests"] == 90 + kills["in_flight_at_kills"] and kills["torn_lines"] == 1
    assert 2 <= kills["in_flight_at_kills"] <= 3 * few["concurrency"]
    text = report.labeling(found)
    assert "| 32 336 x 336 images, processes: 1 |" in text and "90 annotations, 0 missing" in text
    assert not list(tmp_path.iterdir())


def test_an_unknown_measurement_is_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose from text, images, limit, kills, scale"):
        measure_labeling(settings(repository, measures=["texts"]), tmp_path)
