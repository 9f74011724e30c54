"""The report on annotations: sums over a stream, the warnings, and a page that is complete and escaped."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nemo_mm_align.core.running_mean import Mean
from nemo_mm_align.labeling.quality.collect import collect
from nemo_mm_align.labeling.quality.findings import findings
from nemo_mm_align.labeling.quality.report import write_report
from nemo_mm_align.labeling.quality.statistics import BUFFERED_ROWS, Correlations, Histogram, Timeline
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, Prompt, RatedCandidate, Turn, write_records

SCHEMA = AttributeSchema(
    name="three",
    attributes=(Attribute(name="help"), Attribute(name="truth"), Attribute(name="slips", higher_is_better=False)),
    score=("help", "truth", "slips"),
)
PROMPTS, CANDIDATES = 200, 3


def test_sums_over_a_stream_are_those_over_the_whole() -> None:
    rows = np.random.default_rng(0).normal(size=(2 * BUFFERED_ROWS + 7, 3)) @ np.array(
        [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    )
    rows += [1e6, -3, 2]
    correlations, mean = Correlations(("a", "b", "c")), Mean()
    for row in rows:
        correlations.add(row.tolist())
        mean.add(float(row[0]))
    expected = np.corrcoef(rows[:, :2].T)
    assert np.allclose(correlations.matrix()[:2, :2], expected, atol=1e-9)
    assert (
        np.isnan(correlations.between("a", "c")) and correlations.is_constant("c") and not correlations.is_constant("a")
    )
    assert mean.standard_error == pytest.approx(rows[:, 0].std(ddof=1) / np.sqrt(len(rows)), rel=1e-9)


def test_a_timeline_holds_few_blocks_of_many_values() -> None:
    timeline, values = Timeline(max_blocks=8), [float(index) for index in range(1000)]
    for value in values:
        timeline.add(value)
    assert len(timeline.blocks) <= 8 and timeline.block_size == 128
    parts = timeline.parts(2)
    assert sum(part.count for part in parts) == 1000
    assert parts[0].mean == pytest.approx(np.mean(values[: parts[0].count]))


def test_histograms_of_floats_have_bins() -> None:
    histogram = Histogram(0, 1, bins=20)
    for value in (0, 0.05, 0.3, 0.349, 0.35, 1):
        histogram.add(value)
    counts = [histogram.counts[value] for value in histogram.values]
    assert sum(counts) == 6 and [counts[index] for index in (0, 1, 6, 7, 19)] == [1, 1, 2, 1, 1]


def make(folder: Path, judge) -> Path:  # type: ignore[no-untyped-def]
    """Write annotations and their ledger; `judge(index of prompt, place shown, length)` returns the ratings."""
    rng, path = random.Random(0), folder / "annotations.jsonl"
    annotations, attempts = [], []
    for index in range(PROMPTS):
        order = rng.sample(range(CANDIDATES), CANDIDATES)
        lengths = [rng.randint(1, 30) for _ in order]
        rated = [
            RatedCandidate(text=" ".join(["w"] * length), ratings=judge(index, order.index(place), length))
            for place, length in enumerate(lengths)
        ]
        prompt = Prompt(id=str(index), turns=(Turn(role="user", content="<b>?</b> & <script>alert(1)</script>"),))
        facts = {"judge": "j", "schema_name": "three", "schema_fingerprint": SCHEMA.fingerprint, "configuration": "c"}
        annotations.append(Annotation(prompt=prompt, candidates=tuple(rated), order=tuple(order), **facts))
        ratings = [candidate.ratings for candidate in rated]
        attempts.append({"key": str(index), "status": "ok", "configuration": "c", "order": order, "ratings": ratings})
    write_records(path, annotations)
    lines = [
        {"configuration": "c"},
        *attempts,
        {"key": "x", "status": "ok", "configuration": "other", "usage": {"z": 1}},
    ]
    ledger = path.with_name("annotations.ledger.jsonl")
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"key": "torn', encoding="utf-8")
    return path


def found_in(path: Path) -> list[str]:
    return findings(collect(path, SCHEMA, path.with_name("annotations.ledger.jsonl")))


def fair(index: int, place: int, length: int) -> dict[str, int]:
    rng = random.Random(f"{index} {length} {place}")
    return {name: rng.randint(0, 4) for name in SCHEMA.names}


def test_a_fair_judge_gets_no_warning(tmp_path: Path) -> None:
    assert found_in(make(tmp_path, fair)) == []


@pytest.mark.parametrize(
    ("judge", "warning"),
    [
        (lambda *asked: {**fair(*asked), "help": 4}, "help has the same value, 4, for every candidate"),
        (
            lambda *asked: {**fair(*asked), "help": 3 if asked[0] % 20 == 0 else 4},
            "help is 4 for 95% of the candidates",
        ),
        (lambda *asked: {**fair(*asked), "slips": asked[0] % 20 == 0}, "slips is 0 for 95% of the candidates"),
        (
            lambda *asked: {**fair(*asked), "truth": fair(*asked)["help"]},
            "help and truth are practically one attribute",
        ),
        (lambda *asked: {**fair(*asked), "help": asked[2] // 8, "truth": asked[2] // 8}, "longer answers score higher"),
        (lambda *asked: {**fair(*asked), "help": 4 if asked[1] == 0 else 1}, r"position bias: shown at place 1 by \+"),
        (lambda *asked: {**fair(*asked), "help": 0 if asked[0] < 100 else 3}, "drift: the mean score went from"),
    ],
    ids=["constant", "all at the maximum", "all at the better end", "same", "length", "position", "drift"],
)
def test_each_fault_of_a_judge_is_named(tmp_path: Path, judge, warning: str) -> None:  # type: ignore[no-untyped-def]
    found = found_in(make(tmp_path, judge))
    assert any(re.search(warning, text) for text in found), found
    assert len(found) <= 2


def test_failures_and_cut_replies_are_named(tmp_path: Path) -> None:
    path = make(tmp_path, fair)
    ledger = path.with_name("annotations.ledger.jsonl")
    failure = {"key": "f", "status": "failed", "configuration": "c", "kind": "truncated", "usage": {"output_tokens": 9}}
    text = ledger.read_text(encoding="utf-8")
    ledger.write_text((json.dumps(failure) + "\n") * 50 + text, encoding="utf-8")
    quality = collect(path, SCHEMA, ledger)
    assert (quality.calls, quality.failures, quality.usage["output_tokens"]) == (250, {"truncated": 50}, 450)
    assert [text.split(":")[0] for text in findings(quality)] == [
        "50 of 250 calls failed (20%), most of them truncated (50).",
        "50 replies were cut (20% of the calls)",
    ]


def test_the_page_is_complete_escaped_and_fetches_nothing(tmp_path: Path) -> None:
    path = make(tmp_path, lambda *asked: {**fair(*asked), "help": 4})
    Image.new("RGB", (900, 300), "teal").save(tmp_path / "x.png")
    first = next(iter(path.read_text(encoding="utf-8").splitlines()))
    with_image = json.loads(first)
    with_image["prompt"] |= {"id": "i", "images": ["x.png"], "turns": [{"role": "user", "content": "<image>"}]}
    path.write_text(json.dumps(with_image) + "\n" + json.dumps(with_image | {"reference_answer": "<i>"}) + "\n")
    write_report(path, SCHEMA, None)
    page = (tmp_path / "annotations.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2 and "help correlates" not in page
    write_report(make(tmp_path, fair), SCHEMA, path.with_name("annotations.ledger.jsonl"))
    page = (tmp_path / "annotations.html").read_text(encoding="utf-8")
    assert "600 candidates of 200 prompts, rated by j." in page and "slips counted from the other end" in page
    assert page.count("<script") == 0 and "&lt;script&gt;alert(1)" in page and page.count('class="sample"') == 8
    sources = re.findall(r'(?:src|href)="([^"]{5})', page)
    assert len(sources) >= 4 and set(sources) == {"data:"} and "url(" not in page
