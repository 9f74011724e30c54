"""Agreement of two raters: the numbers of scipy and scikit-learn, intervals that cover, and labels as people write them."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.quality.comparison import compare
from nemo_mm_align.labeling.quality.sources import read_ratings
from nemo_mm_align.reporting.agreement import agreement, pair_credits, pairwise_accuracy, quadratic_kappa
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, Prompt, RatedCandidate, Turn, write_records

SCHEMA = AttributeSchema(
    name="two",
    attributes=(
        Attribute(name="quality"),
        Attribute(name="local-risk", integer=False, maximum=1, default=0, higher_is_better=False),
    ),
    score=("quality", "local-risk"),
)


def ratings(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    first = generator.integers(0, 5, count).astype(float)
    second = np.clip(first + generator.integers(-1, 3, count), 0, 4)
    return first, second, np.repeat(np.arange(count // 4), 4)


def test_measures_are_those_of_scipy_and_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    first, second, prompts = ratings()
    found = agreement(first, second, prompts, resamples=50)
    kappa = metrics.cohen_kappa_score(first, second, weights="quadratic", labels=range(5))
    assert found["pearson"].value == pytest.approx(stats.pearsonr(first, second)[0], abs=1e-12)
    assert found["spearman"].value == pytest.approx(stats.spearmanr(first, second)[0], abs=1e-12)
    assert found["kappa"].value == pytest.approx(kappa, abs=1e-12)
    assert found["mad"].value == pytest.approx(metrics.mean_absolute_error(first, second), abs=1e-12)
    assert found["exact"].value == metrics.accuracy_score(first, second)


def test_weights_count_as_repetitions() -> None:
    first, second, _ = ratings(40)
    weights = np.random.default_rng(1).integers(0, 3, 40)
    repeated = quadratic_kappa(first.repeat(weights), second.repeat(weights), np.ones(weights.sum()))
    assert quadratic_kappa(first, second, weights.astype(float)) == pytest.approx(repeated, abs=1e-12)


def test_intervals_cover_the_truth_and_allow_for_prompts() -> None:
    """Answers of one prompt share their error: 100 prompts of 4 answers say no more than 100 answers."""
    covered, widths = 0, []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        error = generator.normal(size=60).repeat(4)
        values = agreement(np.zeros(240), error, np.arange(60).repeat(4), resamples=200)["mad"]
        assert values.low is not None and values.high is not None
        covered += values.low <= np.sqrt(2 / np.pi) <= values.high
        widths.append(values.high - values.low)
    assert covered >= 34  # 38 expected, standard deviation 1.4
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt((1 - 2 / np.pi) / 60), rel=0.15)


def test_a_constant_rater_has_no_correlation_but_a_difference() -> None:
    found = agreement(np.full(8, 4.0), np.array([4.0, 3.0] * 4), np.arange(8) // 2, resamples=20)
    assert found["pearson"].value is None and found["spearman"].low is None
    assert found["exact"].value == 0.5 and found["kappa"].value == 0


def test_pairwise_accuracy_names_ties() -> None:
    first, second = np.array([3.0, 1.0, 2.0, 2.0, 5.0]), np.array([4.0, 4.0, 0.0, 1.0, 1.0])
    found = pairwise_accuracy(*pair_credits(first, second, np.array([0, 0, 0, 1, 1])))
    assert (found.pairs, found.ties, found.undecided) == (2, 0, 2)
    assert found.accuracy.value == 0.5 and found.decided.value == 0.5
    tied = pairwise_accuracy(*pair_credits(np.zeros(3), np.array([1.0, 2.0, 3.0]), np.zeros(3, dtype=int)))
    assert (tied.pairs, tied.ties, tied.accuracy.value, tied.decided.value) == (3, 3, 0.5, None)


def write_annotations(path: Path, texts: dict[str, list[str]], judge: str = "j", shift: float = 0) -> Path:
    def rated(place: int, text: str) -> RatedCandidate:
        return RatedCandidate(text=text, ratings={"quality": (len(text) + shift) % 5, "local-risk": place / 10})

    records = [
        Annotation(
            prompt=Prompt(id=prompt_id, turns=(Turn(role="user", content="?"),)),
            candidates=tuple(rated(place, text) for place, text in enumerate(candidates)),
            judge=judge,
            schema_name=SCHEMA.name,
            schema_fingerprint=SCHEMA.fingerprint,
        )
        for prompt_id, candidates in texts.items()
    ]
    write_records(path, records)
    return path


def test_candidates_are_matched_by_their_text(tmp_path: Path) -> None:
    texts = {"p1": ["a", "bbb", "a", "dddd"], "p2": ["ee", "f"], "p3": ["only here"]}
    moved = {"p2": ["f", "ee"], "p1": ["dddd", "a", "new one", "a"], "p4": ["only there"]}
    first = read_ratings(write_annotations(tmp_path / "a.jsonl", texts, "one"), SCHEMA)
    second = read_ratings(write_annotations(tmp_path / "b.jsonl", moved, "two", shift=1), SCHEMA)
    found = compare(first, second, SCHEMA)
    assert (found.candidates, found.prompts, found.only_first, found.only_second) == (5, 2, 2, 2)
    assert found.attributes["quality"]["mad"].value == pytest.approx((1 * 4 + 4) / 5)  # 4 -> 0, the others one up
    assert (found.first, found.second) == ("one", "two")


def test_labels_of_people_as_a_spreadsheet_or_as_lines(tmp_path: Path) -> None:
    first = read_ratings(write_annotations(tmp_path / "a.jsonl", {"1": ["aaaa", "b"], "2": ["cc", "ddd"]}), SCHEMA)
    table = tmp_path / "people.csv"
    table.write_text(
        "\ufeffprompt_id,candidate,Local Risk,Quality\n1,0,0.1,4\n1, 1,,0\n2,0,,2\n9,0,1,1\n", encoding="utf-8"
    )
    found = compare(first, read_ratings(table, SCHEMA), SCHEMA)
    assert found.counts == {"quality": 3, "local-risk": 1, "score": 1}
    assert found.attributes["quality"]["mad"].value == pytest.approx(1 / 3)
    assert (found.only_first, found.only_second, found.second) == (1, 1, "people")
    lines = tmp_path / "people.jsonl"
    lines.write_text(
        '\ufeff{"prompt_id": 1, "candidate": 1, "quality": 1}\n\n{"prompt_id": "2", "candidate": 0, "quality": 0}\n',
        encoding="utf-8",
    )
    assert compare(first, read_ratings(lines, SCHEMA), SCHEMA).attributes["quality"]["mad"].value == 1


def test_preferences_of_people(tmp_path: Path) -> None:
    texts = {"1": ["aaaa", "b"], "2": ["cc", "ddd"], "3": ["same", "sand"]}
    first = read_ratings(write_annotations(tmp_path / "a.jsonl", texts), SCHEMA)
    table = tmp_path / "people.csv"
    table.write_text("prompt_id,chosen,rejected\n1,0,1\n2,0,1\n3,1,0\n4,0,1\n", encoding="utf-8")
    pairwise = compare(first, read_ratings(table, SCHEMA), SCHEMA).pairwise
    assert pairwise is not None and (pairwise.pairs, pairwise.ties) == (3, 0)
    assert pairwise.accuracy.value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prompt_id,candidate,quality\n1,0,5\n", r"people.csv:2: quality=5 is outside 0 to 4"),
        ("prompt_id,candidate,quality\n1,0,3\n1,0,3\n", r"people.csv:3: candidate 0 of prompt '1' stands twice"),
        ("prompt_id,candidate,quality\n1,A,3\n", "candidate is 'A', not the place of a candidate"),
        ("prompt_id,candidate,charm\n1,0,3\n", "unknown column 'charm'.*columns are prompt_id, candidate, quality"),
        ("prompt_id,candidate,quality\n1,0,good\n", "quality='good' is not a number"),
        ("prompt_id,candidate,quality\n1,0,nan\n", "quality='nan' is not a number"),
        ("prompt_id,chosen,rejected\n1,1,1\n", "the same candidate"),
        ("prompt_id,candidate,quality\n", "empty"),
        ("id,quality\n1,3\n", "people.csv:2: no prompt_id"),
        ("prompt_id,quality\n1,3\n", "candidate is None"),
        ("prompt_id,candidate,quality\n7,0,3\n", "no candidate in common"),
    ],
)
def test_faulty_tables_are_refused_with_line_and_remedy(tmp_path: Path, text: str, problem: str) -> None:
    first = read_ratings(write_annotations(tmp_path / "a.jsonl", {"1": ["aaaa", "b"]}), SCHEMA)
    (tmp_path / "people.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=problem):
        compare(first, read_ratings(tmp_path / "people.csv", SCHEMA), SCHEMA)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "p.csv",
            "prompt_id,chosen,rejected,quality\n1,0,1,3\n",
            "p.csv:2: unknown column 'quality' beside a preference",
        ),
        ("p.csv", "prompt_id,candidate,quality,quality\n1,0,3,4\n", "p.csv:1: column 'quality' stands twice"),
        ("p.csv", "prompt_id,candidate,Quality,quality\n1,0,3,4\n", "p.csv:2: two columns for quality"),
        ("p.csv", "prompt_id;candidate;quality\n1;0;3\n", "p.csv:1: one column, .*separate columns by commas"),
        ("p.csv", "prompt_id,candidate,quality\n1,0,3,very good\n", "p.csv:2: more cells than the 3 columns"),
        ("p.csv", f"prompt_id,candidate,quality\n1,{'9' * 5000},3\n", "p.csv:2: candidate is .*not the place"),
        ("p.xlsx", "PK", "p.xlsx: no table of ratings by its suffix"),
        ("p.CSV", "prompt_id,candidate,quality\n1,0,5\n", "p.CSV:2: quality=5 is outside 0 to 4"),
        ("p.jsonl", '{"prompt_id": 1, "candidate": 0, "quality": 1, "quality": 2}', "p.jsonl:1: a key stands twice"),
        ("p.jsonl", f"{'[' * 100_000}", "p.jsonl:1: not a JSON object"),
        ("p.jsonl", '{"prompt_id": 1, "candidate": 0, "quality": true}', "p.jsonl:1: quality=True is not a number"),
    ],
)
def test_no_cell_of_a_table_is_passed_over(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=problem):
        read_ratings(tmp_path / name, SCHEMA)


def test_annotations_out_of_range_are_named_with_their_line(tmp_path: Path) -> None:
    path = write_annotations(tmp_path / "a.jsonl", {"1": ["aaaa", "b"], "2": ["cc", "ddd"]})
    first, second = path.read_text(encoding="utf-8").splitlines()
    wrong = second.replace('"quality":', '"quality":9')
    path.write_text(f"{first}\n{wrong}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl:2: quality=9\S* is outside 0 to 4"):
        read_ratings(path, SCHEMA)
