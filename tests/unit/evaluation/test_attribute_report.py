"""The report on told attributes: its arithmetic by hand, its verdicts, its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.evaluation.attribute_report.calibration import calibrate
from nemo_mm_align.evaluation.attribute_report.measures import tell, with_sum
from nemo_mm_align.evaluation.attribute_report.stage import report_from_config
from nemo_mm_align.evaluation.attribute_report.values import in_common, read_values
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import RatedAnswer, RatedAnswers
from nemo_mm_align.schema.records import Annotation, Prompt, RatedCandidate, Record, Turn, write_records

TURNS = (Turn(role="user", content="q"),)


def rated(name: str, **answers: dict[str, float]) -> RatedAnswers:
    found = tuple(RatedAnswer(text=text, attributes=values) for text, values in answers.items())
    return RatedAnswers(id=name, turns=TURNS, answers=found)


def annotation(schema: AttributeSchema, *candidates: RatedCandidate, **more: str) -> Annotation:
    identity = {"schema_name": schema.name, "schema_fingerprint": schema.fingerprint, **more}
    return Annotation(prompt=Prompt(id="p", turns=TURNS), candidates=candidates, judge="m", **identity)


def test_calibration_by_hand() -> None:
    told, judged = np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 1.0, 2.0, 4.0])
    found = calibrate(told, judged, np.array([0, 0, 1, 1]), bins=2, seed=0)
    assert [(item.count, item.told, item.judged) for item in found.bins] == [(2, 0.5, 1.0), (2, 2.5, 3.0)]
    # slope: sum of (-1.5, -.5, .5, 1.5) x (-1, -1, 0, 2) over sum of squares 5; error: (|1 - .5| + |3 - 2.5|) / 2
    assert (found.slope.value, found.intercept.value, found.error.value) == pytest.approx((1.0, 0.5, 0.5))
    alike = calibrate(np.array([1.0, 1.0, 1.0, 3.0]), judged, np.arange(4), bins=2, seed=0)
    assert [item.count for item in alike.bins] == [3, 1], "equal values stand in one bin"
    assert calibrate(np.ones(3), judged[:3], np.arange(3), 2, 0).slope.value is None


def test_measures_by_hand() -> None:
    told, judged = np.array([2.0, 1.0, 1.0, 3.0, np.nan, 2.0]), np.array([4.0, 2.0, 2.0, 1.0, 3.0, 0.0])
    found = tell(told, judged, np.array([0, 0, 0, 1, 1, 1]), bins=2, seed=0)
    assert found.answers == 5 and found.measures["mad"].value == pytest.approx((2 + 1 + 1 + 2 + 2) / 5)
    # first prompt: two pairs told alike, one judged equal; second: 1 above 0, told 3 above 2
    assert (found.pairs.pairs, found.pairs.undecided, found.pairs.accuracy.value) == (3, 1, 1.0)
    assert tell(told, judged, np.array([0, 0, 0, 1, 1, 1]), bins=2, seed=0).as_json() == found.as_json(), "seeded"
    opposite = tell(-told, judged, np.array([0, 0, 0, 1, 1, 1]), bins=2, seed=0)
    assert found.credits.minus(opposite.credits, 0).value == 1.0
    assert found.measures["spearman"].value == pytest.approx(-opposite.measures["spearman"].value)  # type: ignore[operator]


def test_the_weighted_sum_needs_the_weighted_values_alone() -> None:
    values = np.array([[1.0, 2.0, np.nan], [np.nan, 1.0, 0.0]])
    found = with_sum(values, {"a": 0.5, "b": -1.0, "c": 0.0})
    assert found[0, 3] == -1.5 and np.isnan(found[1, 3])


def test_answers_go_by_prompt_and_text_and_equal_texts_have_their_mean(
    tmp_path: Path, helpsteer: AttributeSchema
) -> None:
    def ratings(value: float) -> dict[str, float]:
        return dict.fromkeys(helpsteer.names, value)

    candidates = [
        RatedCandidate(text=" a", ratings=ratings(1)),
        RatedCandidate(text="a ", ratings=ratings(4)),
        RatedCandidate(text="b", ratings=ratings(3), predicted=ratings(2.6)),
        RatedCandidate(text=" ", ratings=ratings(0)),
    ]
    write_records(tmp_path / "told.jsonl", [annotation(helpsteer, *candidates)])
    write_records(
        tmp_path / "judged.jsonl", [rated("p", a={"verbosity": 1}, c={"verbosity": 0}), rated("q", a={"verbosity": 2})]
    )
    told, judged = (read_values(tmp_path / f"{name}.jsonl", helpsteer) for name in ("told", "judged"))
    assert told.values == {("p", "a"): (2.5,) * 5, ("p", "b"): (2.6,) * 5}
    common = in_common([judged, told])
    assert (common.keys, common.left_out, common.prompts) == ((("p", "a"),), 2, 1)
    write_records(tmp_path / "other.jsonl", [rated("x", a={"verbosity": 2})])
    with pytest.raises(UserError, match=r"other.jsonl has no answer in common with .*judged.jsonl"):
        in_common([judged, read_values(tmp_path / "other.jsonl", helpsteer)])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (rated("p", a={"honesty": 1}), r"x.jsonl:1: prompt p: unknown attribute 'honesty'"),
        (rated("p", a={"verbosity": 5}), "verbosity=5 is outside 0 to 4"),
    ],
)
def test_values_that_are_none_of_the_schema_are_named(
    tmp_path: Path, helpsteer: AttributeSchema, record: Record, message: str
) -> None:
    write_records(tmp_path / "x.jsonl", [record])
    with pytest.raises(RecordError, match=message):
        read_values(tmp_path / "x.jsonl", helpsteer)
    candidate = RatedCandidate(text="a", ratings={})
    write_records(tmp_path / "y.jsonl", [annotation(helpsteer, candidate, schema_fingerprint="other")])
    with pytest.raises(RecordError, match=r"y.jsonl:1: was rated by schema 'helpsteer' \(other\), not by"):
        read_values(tmp_path / "y.jsonl", helpsteer)


SHORT = {"name": "short", "attributes": [{"name": "correctness", "higher_is_better": False}], "score": ["correctness"]}
"""One attribute, so that little is resampled."""


def told_file(path: Path, noise: float, seed: int, prompts: int = 60) -> str:
    """Three answers to each prompt, judged 0 to 4 at random, told with noise; the same judgements for every file."""
    truth, generator = np.random.default_rng(0), np.random.default_rng(seed)
    records = []
    for number in range(prompts):
        values = (truth.integers(0, 5, 3) + noise * generator.standard_normal(3)).clip(0, 4)
        answers = {text: {"correctness": float(value)} for text, value in zip("abc", values, strict=True)}
        records.append(rated(f"p{number}", **answers))
    write_records(path, records)
    return str(path)


def run(folder: Path, *words: str) -> Any:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("attribute_report", [f"out={folder}/report.html", *words])
    values: Any = OmegaConf.to_container(config, resolve=True)
    return report_from_config({**values, "attribute_schema": SHORT})


def test_the_stage_says_in_words_what_the_numbers_are(tmp_path: Path) -> None:
    files = {"judged": (0.0, 1, 60), "predicted": (1.0, 2, 60), "shuffled": (9.0, 3, 60), "probe": (0.6, 4, 60)}
    files["repeat"] = (0.3, 5, 30)
    words = [f"{name}={told_file(tmp_path / f'{name}.jsonl', *how)}" for name, how in files.items()]
    report = run(tmp_path, *words)
    text = " ".join(report.sentences["correctness"])
    for part in ("are ordered as the judge orders them, more than by chance", "as far as these answers show",
                 "nothing beyond frozen features", "images are used", "the same judge asked again orders",
                 "leaves room below that", "differences are told larger than they are judged"):  # fmt: skip
        assert part in text, text
    values = json.loads((tmp_path / "report.json").read_text())
    assert (values["prompts"], values["answers"], values["judged_answers_left_out"]) == (60, 180, 0)
    columns = values["attributes"]["weighted sum"]
    assert columns["same judge again"]["answers"] == 90 and columns["model"]["answers"] == 180
    low, high = columns["model"]["pair_accuracy"][1:]
    assert 0.5 < low < columns["model"]["pair_accuracy"][0] < high < 1
    page = (tmp_path / "report.html").read_text()
    assert page.count("<table>") == 5 and "data:image/svg" in page and "images are used" in page


def test_few_pairs_are_no_evidence_and_mistakes_are_named(tmp_path: Path) -> None:
    judged = told_file(tmp_path / "judged.jsonl", 0.0, 1, 10)
    words = [f"judged={judged}", f"predicted={told_file(tmp_path / 'told.jsonl', 1.0, 2, 10)}"]
    report = run(tmp_path, *words, "weights={correctness:2}")
    assert "too few to say how they are ordered" in report.sentences["weighted sum"][0]
    assert report.weights == {"correctness": 2}
    with pytest.raises(UserError, match="weights names honesty; schema 'short' has correctness"):
        run(tmp_path, *words, "weights={honesty:1}")
    with pytest.raises(UserError, match=r"out=.*x.csv: a page of HTML is written there"):
        run(tmp_path, *words, f"out={tmp_path}/x.csv")
    with pytest.raises(UserError, match="nowhere.jsonl: no such file"):
        run(tmp_path, *words, "probe=nowhere.jsonl")
