import json

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.results import (
    Layout,
    Results,
    installed_versions,
    read_results,
    write_results,
)
from nemo_mm_align.recipes.registry import paper_recipes
from tests.unit.evaluation.judged import TASK, results_by_method, seed_answers
from tests.unit.evaluation.several_tasks import METHODS, results_of


@pytest.fixture
def results(helpsteer):
    return Results(
        created="2026-01-01T00:00:00",
        seeds=[0],
        schema_name=helpsteer.name,
        task=TASK.name,
        measures=TASK.measures,
        methods=results_by_method([seed_answers(base=0.5, dpo=0.8)]),
        layouts={"dpo": Layout(world_size=2, tensor=2)},
        versions=installed_versions(),
    )


def test_what_is_written_is_read(tmp_path, results):
    write_results(tmp_path / "out" / "results.json", results)
    assert read_results(tmp_path / "out" / "results.json") == results
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]


def test_plain_numbers_stand_where_they_are_looked_for(tmp_path, results):
    write_results(tmp_path / "results.json", results)
    dpo = json.loads((tmp_path / "results.json").read_text())["methods"]["dpo"]
    assert isinstance(dpo["score"], float) and isinstance(dpo["text_score"], float)
    assert 0.5 < dpo["measurements"]["correctness"]["value"] <= 1
    for name in ("hallucination", "yes_no_accuracy", "text_score", "length_words", "score", "judged.verbosity"):
        assert isinstance(dpo["measurements"][name]["value"], float), name


def test_missing_methods_are_known(results):
    assert results.missing_methods == ["sft", "rejection", "steerlm"]
    assert set(paper_recipes()) == {"sft", "rejection", "steerlm", "dpo"}


def test_versions_name_the_engine():
    assert {"python", "torch", "megatron-core", "nemo_toolkit"} <= set(installed_versions())


def test_unreadable_results_are_named(tmp_path):
    with pytest.raises(UserError, match=r"results\.json: no such file"):
        read_results(tmp_path / "results.json")
    (tmp_path / "results.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match=r"not a result of this version \(created: Field required\)"):
        read_results(tmp_path / "results.json")


def test_what_nobody_said_is_no_key_of_the_file(tmp_path):
    results = results_of("dialogues", METHODS["dialogues"])
    write_results(tmp_path / "results.json", results)
    assert {"resampling", "cost", "sources", "reproduction"} <= json.loads(
        (tmp_path / "results.json").read_text()
    ).keys()
    assert read_results(tmp_path / "results.json") == results
    plain = results.model_copy(update={"resampling": None, "cost": None, "sources": [], "reproduction": None})
    write_results(tmp_path / "plain.json", plain)
    assert (
        not {"resampling", "cost", "sources", "reproduction"} & json.loads((tmp_path / "plain.json").read_text()).keys()
    )
    assert read_results(tmp_path / "plain.json") == plain
