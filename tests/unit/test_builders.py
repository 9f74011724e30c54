import json
import subprocess
import sys
from collections import Counter

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.builders import build
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.schema.examples import TrainingExample as Example
from nemo_mm_align.schema.records import Annotation, Prompt, RatedCandidate, Turn, read_records, write_records
from tests.waiting import PATIENCE_S


def rated(text: str, helpfulness: int, correctness: int, coherence: int, **fields) -> RatedCandidate:
    ratings = {"helpfulness": helpfulness, "correctness": correctness, "coherence": coherence}
    return RatedCandidate(text=text, ratings=ratings | {"complexity": 4, "verbosity": 0}, **fields)


def annotation(schema, *candidates: RatedCandidate, name="p", reference: str | None = None, **fields) -> Annotation:
    prompt = Prompt(id=name, images=("img/a.png",), turns=(Turn(role="user", content="<image>\nq"),))
    identity = {"schema_name": schema.name, "schema_fingerprint": schema.fingerprint}
    return Annotation(prompt=prompt, candidates=candidates, reference_answer=reference, judge="j", **identity | fields)


def dropped(summary) -> dict:
    return dict(summary.dropped)


BEST, GOOD, FAIR, POOR = (4, 4, 4), (4, 4, 3), (4, 3, 3), (0, 1, 1)


def test_sft_takes_the_reference_answer(helpsteer):
    given = [
        annotation(helpsteer, rated("x", *BEST), name=str(i), reference=r) for i, r in enumerate([" gold ", None, " "])
    ]
    (example,), summary = build(BuildSettings(name="sft"), given, helpsteer)
    assert (example.id, example.turns[-1].content, example.attributes) == ("0", "gold", None)
    assert (summary.prompts, summary.kept) == (3, 1)
    assert dropped(summary) == {("prompt", "no reference answer"): 2}


def test_rejection_takes_one_perfect_answer_per_prompt(helpsteer):
    perfect = [rated("a", *BEST), rated("b", *GOOD), rated("c", *BEST)]
    given = [annotation(helpsteer, *perfect, name=str(index)) for index in range(200)]
    given.append(annotation(helpsteer, rated("b", *GOOD), name="none"))
    examples, summary = build(BuildSettings(name="rejection"), given, helpsteer)
    picked = Counter(example.turns[-1].content for example in examples)
    assert picked.keys() == {"a", "c"} and min(picked.values()) > 70 and sum(picked.values()) == 200
    assert dropped(summary) == {("prompt", "no candidate with a score of 12"): 1}
    looser, _ = build(BuildSettings(name="rejection", threshold=11), given, helpsteer)
    assert {example.turns[-1].content for example in looser} == {"a", "b", "c"}


def test_steerlm_paper_takes_every_candidate_with_its_ratings(helpsteer):
    given = annotation(helpsteer, rated("a", *BEST), rated("b", *POOR), rated("c", *BEST, finish_reason="length"))
    examples, summary = build(BuildSettings(name="steerlm_paper"), [given], helpsteer)
    assert [(example.id, example.turns[-1].content) for example in examples] == [("p#0", "a"), ("p#1", "b")]
    assert examples[1].attributes == {
        "helpfulness": 0,
        "correctness": 1,
        "coherence": 1,
        "complexity": 4,
        "verbosity": 0,
    }
    assert dropped(summary) == {("candidate", "cut at the token limit"): 1}
    kept, _ = build(BuildSettings(name="steerlm_paper", drop_truncated=False), [given], helpsteer)
    assert [example.id for example in kept] == ["p#0", "p#1", "p#2"]


def test_preference_takes_the_best_and_a_random_one_two_below(helpsteer):
    candidates = [rated("fair", *FAIR), rated("best", *BEST), rated("good", *GOOD), rated("poor", *POOR)]
    given = [annotation(helpsteer, *candidates, name=str(index)) for index in range(200)]
    pairs, _ = build(BuildSettings(name="preference"), given, helpsteer)
    assert {(pair.chosen, pair.chosen_score) for pair in pairs} == {("best", 12)}
    rejected = Counter((pair.rejected, pair.rejected_score) for pair in pairs)
    assert rejected.keys() == {("fair", 10), ("poor", 2)} and min(rejected.values()) > 70
    strict, _ = build(BuildSettings(name="preference", margin=3), given, helpsteer)
    assert {pair.rejected for pair in strict} == {"poor"}


def test_groups_without_a_pair_are_dropped_with_the_reason(helpsteer):
    given = [
        annotation(helpsteer, rated("a", *BEST), rated("b", *GOOD), name="close"),
        annotation(helpsteer, rated("a", *BEST), name="single"),
        annotation(helpsteer, rated("a", *BEST), rated(" a ", *POOR), name="same text"),
        annotation(helpsteer, rated("a", *BEST, finish_reason="length"), rated(" ", *POOR), name="unusable"),
        annotation(helpsteer, rated("a", *BEST), rated("an <image>", *POOR), name="placeholder"),
        annotation(helpsteer, rated("a", *BEST), rated("b", *POOR), name="pair"),
    ]
    (pair,), summary = build(BuildSettings(name="preference"), given, helpsteer)
    assert pair.id == "pair"
    assert dropped(summary) == {
        ("prompt", "no candidate 2 below the best"): 2,
        ("prompt", "too few candidates"): 3,
        ("candidate", "cut at the token limit"): 1,
        ("candidate", "empty"): 1,
        ("candidate", "<image> in the answer"): 1,
    }


@pytest.mark.parametrize("name", ["rejection", "preference", "all_pairs"])
def test_choices_depend_on_seed_and_prompt_only(helpsteer, name):
    candidates = [rated(str(index), *(BEST if index < 4 else POOR)) for index in range(8)]
    given = [annotation(helpsteer, *candidates, name=str(index)) for index in range(20)]
    first, _ = build(BuildSettings(name=name, seed=1, max_pairs=1), given, helpsteer)
    again, _ = build(BuildSettings(name=name, seed=1, max_pairs=1), given[::-1], helpsteer)
    other, _ = build(BuildSettings(name=name, seed=2, max_pairs=1), given, helpsteer)
    assert first == again[::-1] and first != other


def test_annotations_that_do_not_fit_are_refused(helpsteer):
    settings = BuildSettings(name="steerlm_paper")
    good = annotation(helpsteer, rated("a", *BEST))
    cases = {
        "not by 'helpsteer'": [good.model_copy(update={"schema_fingerprint": "other"})],
        "prompt p is annotated twice": [good, good],
        "prompt p, candidate 0: helpfulness=9 is outside": [annotation(helpsteer, rated("a", 9, 4, 4))],
        "no example is left for method=steerlm_paper": [annotation(helpsteer, rated("", *BEST))],
    }
    for fault, given in cases.items():
        with pytest.raises(UserError, match=fault):
            build(settings, given, helpsteer)


@pytest.mark.parametrize("name", ["sft", "rejection", "steerlm", "steerlm_paper", "preference"])
def test_no_method_takes_ratings_out_of_range(helpsteer, name):
    wrong = annotation(helpsteer, rated("a", 4, 4, 4), rated("b", 4, 9, 4), reference="own answer")
    with pytest.raises(UserError, match="prompt p, candidate 1: correctness=9 is outside 0 to 4. Correct that line"):
        build(BuildSettings(name=name), [wrong], helpsteer)


def run(repository, folder, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(repository / "scripts/build.py"), *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_the_script_writes_records_whose_images_resolve(repository, tmp_path, helpsteer):
    (tmp_path / "data/img").mkdir(parents=True)
    (tmp_path / "data/img/a.png").touch()
    given = [annotation(helpsteer, rated("a", *BEST), rated("b", *POOR), name=str(index)) for index in range(3)]
    write_records(tmp_path / "data/annotations.jsonl", given)
    for out, image in (
        ("sets/rejection.jsonl", str(tmp_path / "data/img/a.png")),
        ("rejection.jsonl", "data/img/a.png"),
    ):
        done = run(repository, tmp_path, "method=rejection", "annotations=data/annotations.jsonl", f"out={out}")
        assert done.returncode == 0, done.stderr
        assert "examples for rejection" in done.stdout
        (example, *_) = read_records(tmp_path / out, Example)
        assert example.images == (image,)
        (example, *_) = read_examples(SourceSettings(path=str(tmp_path / out)), helpsteer)
        assert example.images == (str(tmp_path / "data/img/a.png"),)
    summary = json.loads((tmp_path / "rejection.jsonl.summary.json").read_text())
    assert (summary["prompts"], summary["candidates"], summary["kept"]) == (3, 6, 3)
    settings = {"name": "rejection", "threshold": None, "drop_truncated": True, "fraction": 1.0, "seed": 1234}
    settings |= {"rating_noise": 0.0}
    assert summary["settings"] == settings | {"format": "records"}
    assert summary["answers"]["answer"]["score"] | {"deviation": 0} == {
        "count": 3, "mean": 12, "deviation": 0, "minimum": 12, "maximum": 12, "bins": {"12": 3},
    }  # fmt: skip
    assert summary["paper"] == "100% of the prompts gave an example; in the paper 84% (5,034 of 6,000)"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data",
        "rejection.jsonl",
        "rejection.jsonl.summary.json",
        "sets",
    ]


def test_the_script_names_what_is_wrong(repository, tmp_path):
    done = run(repository, tmp_path, "method=preference", "annotations=none.jsonl", "out=x.jsonl")
    assert done.returncode == 2 and done.stderr.startswith("error: none.jsonl: no such file.")
    done = run(repository, tmp_path, "method=sft", "method.margin=1", "annotations=a", "out=x")
    assert done.returncode != 0 and "margin" in done.stderr
    done = run(repository, tmp_path)
    assert done.returncode == 2 and done.stderr == (
        "error: missing on the command line: method=... (sft, rejection, steerlm, steerlm_paper, preference, best_worst, "
        "all_pairs, attribute_preference, attribute_model, labelled, steerlm2), annotations=..., out=.... "
        "Each is explained in conf/build.yaml.\n"
    )
