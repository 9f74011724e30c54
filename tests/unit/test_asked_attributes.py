"""What `sample` and `generate` ask for: defaults, sweeps over what a model is asked for, draws of what was observed."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.drawn import DrawnAttributes
from nemo_mm_align.inference.identity import asking
from nemo_mm_align.inference.settings import InferenceSettings, register_open_attributes, settings_from_config
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import CandidateSet, write_records
from tests.unit.test_build_steerlm import annotation, candidate


@pytest.fixture
def taste(helpsteer: AttributeSchema) -> AttributeSchema:
    return helpsteer.model_copy(update={"steered": ("complexity", "verbosity")})


def settings(repository, stage: str, *overrides: str) -> InferenceSettings:
    register_open_attributes()
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        config = compose(stage, ["checkpoint=m", "prompts=p", "out=o", *overrides])
    return settings_from_config(OmegaConf.to_container(config, resolve=True))


def test_defaults_can_be_asked_for_without_naming_an_attribute(repository, taste) -> None:
    assert settings(repository, "generate").assignments(taste) == [None]
    (asked,) = settings(repository, "generate", "ask_defaults=true").assignments(taste)
    assert asked is not None and taste.complete(asked) == {"complexity": 2, "verbosity": 2}


def test_a_sweep_can_take_all_that_a_model_is_asked_for_and_nothing_else(repository, taste) -> None:
    every = settings(repository, "generate", "sweep=all").assignments(taste)
    assert every == settings(repository, "generate", "sweep=[complexity,verbosity]").assignments(taste)
    assert len(every) == 9
    with pytest.raises(UserError, match="helpfulness is judged but not asked for"):
        settings(repository, "generate", "sweep=[helpfulness]").assignments(taste)


def test_prompts_are_asked_for_what_good_answers_were_seen_to_have(tmp_path, taste) -> None:
    path = tmp_path / "annotations.jsonl"
    good = [annotation(taste, f"g{number}", candidate("a", 12, number % 2, 4)) for number in range(30)]
    write_records(path, [*good, annotation(taste, "poor", candidate("b", 9, 3, 3), candidate("c", 10, 4, 0))])
    drawn = DrawnAttributes(path, taste, seed=0)
    counts = Counter(tuple(drawn.of(f"p{number}").values()) for number in range(600))
    assert counts.keys() == {(0, 4), (1, 4), (4, 0)}, "9 of 12 is not good, 10 is"
    assert min(counts.values()) > 150, "each combination as likely, however often it was seen"
    assert [DrawnAttributes(path, taste, 0).of("p1"), drawn.of("p1")] == [drawn.of("p1")] * 2
    assert any(DrawnAttributes(path, taste, 1).of(f"p{n}") != drawn.of(f"p{n}") for n in range(9))


def test_draws_that_cannot_be_made_are_refused(repository, tmp_path, taste) -> None:
    path = tmp_path / "annotations.jsonl"
    with pytest.raises(UserError, match="no such file"):
        DrawnAttributes(path, taste, 0)
    write_records(path, [annotation(taste, "p", candidate("a", 9, 1, 1))])
    with pytest.raises(UserError, match="no answer has a score of 10; there is nothing to draw from"):
        DrawnAttributes(path, taste, 0)
    write_records(
        path, [annotation(taste, "p", candidate("a", 12, 1, 1)).model_copy(update={"schema_fingerprint": "x"})]
    )
    with pytest.raises(UserError, match=r"prompt p was annotated by schema 'helpsteer' \(x\), but the model asks by"):
        DrawnAttributes(path, taste, 0)
    write_records(path, [annotation(taste, "p", candidate("a", 12, 1, 1, finish_reason="length"))])
    with pytest.raises(UserError, match="there is nothing to draw from"):
        DrawnAttributes(path, taste, 0)
    write_records(path, [annotation(taste, "p", candidate("a", 12, 1, 1), candidate("b", 12, 9, 1))])
    with pytest.raises(UserError, match=r"annotations.jsonl: prompt p, candidate 1: complexity=9 is outside"):
        DrawnAttributes(path, taste, 0)
    with pytest.raises(UserError, match="has an empty score, so no answer is a good one"):
        DrawnAttributes(path, taste.model_copy(update={"score": ()}), 0)
    assert settings(repository, "sample", f"draw_from={path}").asks
    with pytest.raises(UserError, match="give it without other attributes"):
        settings_from_config({**settings(repository, "sample").model_dump(), "draw_from": path, "ask_defaults": True})


def test_a_candidate_set_says_what_was_asked_where_it_does() -> None:
    candidates = ({"text": "a"},)
    assert CandidateSet(prompt_id="p", candidates=candidates, sampling={"attributes": {"verbosity": 1}}).asked == {
        "verbosity": 1
    }
    for odd in ({}, {"attributes": None}, {"attributes": "verbosity"}, {"attributes": {"verbosity": "much"}}):
        assert CandidateSet(prompt_id="p", candidates=candidates, sampling=odd).asked is None


def test_answers_to_two_wordings_of_a_request_never_share_a_file(taste, helpsteer) -> None:
    short = taste.model_copy(update={"steering": "Attributes:\n{attributes}"})
    said = [json.dumps(asking(schema)) for schema in (helpsteer, taste, short)]
    assert len(set(said)) == 3
    assert asking(helpsteer) == [helpsteer.fingerprint], "as in files of earlier releases"
