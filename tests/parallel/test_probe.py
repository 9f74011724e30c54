"""The probe as a user runs it: fitted on hidden states, in one process and at tensor parallel 2."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nemo_mm_align.schema.examples import RatedAnswers
from nemo_mm_align.schema.records import read_records
from tests.distributed import REPOSITORY
from tests.golden.worker import run_scripts
from tests.parallel.test_attribute_model import NAMES, rated_data
from tests.tiny import tiny_llava

pytestmark = pytest.mark.parallel


def test_it_tells_held_out_answers_alike_in_every_layout(tmp_path: Path) -> None:
    assert REPOSITORY
    tiny_llava(tmp_path / "model")
    path = rated_data(tmp_path, 24)
    lines = path.read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:18]))
    (tmp_path / "heldout.jsonl").write_text("".join(lines[18:]))

    def words(name: str, *more: str) -> list[str]:
        files = [f"{kind}={tmp_path}/{kind}.jsonl" for kind in ("train", "heldout")]
        return [f"checkpoint={tmp_path}/model", *files, f"out={tmp_path}/{name}.jsonl", "alphas=[1.0,100.0]", *more]

    alone = [("probe.py", words("one")), ("probe.py", words("mean", "pooling=mean"))]
    run_scripts(tmp_path, [("probe.py", words("tp2", "tensor_model_parallel_size=2"))], 2, alone)
    one, two, mean = (list(read_records(tmp_path / f"{name}.jsonl", RatedAnswers)) for name in ("one", "tp2", "mean"))
    held = list(read_records(tmp_path / "heldout.jsonl", RatedAnswers))
    assert [[answer.text for answer in record.answers] for record in one] == [
        [answer.text for answer in record.answers] for record in held
    ]

    def values(records: list[RatedAnswers]) -> np.ndarray:
        return np.array([list(answer.attributes.values()) for record in records for answer in record.answers])

    assert list(one[0].answers[0].attributes) == list(NAMES) and one[0].images == held[0].images
    np.testing.assert_allclose(values(two), values(one), atol=2e-4)
    assert np.abs(values(mean) - values(one)).max() > 0.01
    assert values(one).min() >= 0 and values(one).max() <= 4
    facts = json.loads((tmp_path / "one.fit.json").read_text())
    assert facts["attributes"]["verbosity"]["alpha"] in (1.0, 100.0) and facts["answers_fitted"] == 36
