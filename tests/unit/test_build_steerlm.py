"""The mixture that attribute-conditioned training learns from, and the drawing behind it."""

import json
import random
from collections import Counter

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.builders import build
from nemo_mm_align.datasets.quotas import apportion, draw_evenly
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import TrainingExample
from nemo_mm_align.schema.records import Annotation, Prompt, RatedCandidate, Turn, write_records


@pytest.mark.parametrize(
    ("total", "weights", "caps", "counts"),
    [
        (10, [1, 1], [9, 9], [5, 5]),
        (10, [1, 3], [9, 9], [3, 7]),  # 2.5 and 7.5: the first of equal remainders
        (10, [1, 1], [2, 9], [2, 8]),  # what the cap holds back goes to the other
        (10, [3, 1, 1], [3, 9, 9], [3, 4, 3]),
        (99, [1, 1], [2, 3], [2, 3]),
        (10, [0, 2], [9, 9], [0, 9]),  # nothing of no weight
        (7, [1], [9], [7]),
        (0, [1, 2], [9, 9], [0, 0]),
        (4, [], [], []),
    ],
)
def test_a_total_is_divided_by_weight_below_caps(total, weights, caps, counts):
    assert apportion(total, weights, caps) == counts


def test_every_thing_is_drawn_as_often_as_any_other_or_once_more():
    things = list("abcd")
    drawn = draw_evenly(random.Random(0), things, 10)
    assert sorted(Counter(drawn).values()) == [2, 2, 3, 3] and drawn == sorted(drawn)
    assert draw_evenly(random.Random(0), [], 3) == []
    assert len({tuple(draw_evenly(random.Random(seed), things, 2)) for seed in range(20)}) > 3


def candidate(name: str, score: int, complexity: int, verbosity: int, **fields) -> RatedCandidate:
    quality = {"helpfulness": min(4, score), "correctness": min(4, max(0, score - 4)), "coherence": max(0, score - 8)}
    return RatedCandidate(text=name, ratings=quality | {"complexity": complexity, "verbosity": verbosity}, **fields)


def annotation(schema: AttributeSchema, name: str, *candidates: RatedCandidate, image: bool = True) -> Annotation:
    turn = Turn(role="user", content="<image>\nq" if image else f"say {name}")
    prompt = Prompt(id=name, images=("a.png",) if image else (), turns=(turn,))
    identity = {"schema_name": schema.name, "schema_fingerprint": schema.fingerprint}
    return Annotation(prompt=prompt, candidates=candidates, judge="j", **identity)


@pytest.fixture
def taste(helpsteer) -> AttributeSchema:
    return helpsteer.model_copy(update={"steered": ("complexity", "verbosity")})


def many(schema: AttributeSchema, prompts: int = 60, texts: int = 20) -> list[Annotation]:
    """Prompts with a good and a poor short answer and a good long one; texts with a right and a wrong answer."""
    pictures = [
        annotation(
            schema,
            f"p{number:03d}",
            candidate(f"short {number}", 12, 0, 0),
            candidate(f"poor {number}", 3, 1, 0),
            candidate(f"long {number}", 11, 4, 4),
        )
        for number in range(prompts)
    ]
    words = [
        annotation(schema, f"t{number:03d}", candidate("right", 12, 0, 0), candidate("wrong", 2, 0, 0), image=False)
        for number in range(texts)
    ]
    return [*pictures, *words]


def rows_by_kind(examples: list[TrainingExample]) -> dict[str, list[TrainingExample]]:
    found: dict[str, list[TrainingExample]] = {"asked": [], "unasked": [], "replay": []}
    for example in examples:
        kind = "replay" if not example.images else "asked" if example.attributes else "unasked"
        found[kind].append(example)
    return found


def test_a_mixture_has_the_shares_that_are_asked_for(taste):
    settings = BuildSettings(name="steerlm", size=200, balance="even")
    examples, summary = build(settings, many(taste), taste)
    rows = rows_by_kind(examples)
    # 35 % of 200; a fifth of the other 130; of the other 104 rows 15 % with the poor answer
    assert {kind: len(found) for kind, found in rows.items()} == {"asked": 104, "unasked": 26, "replay": 70}
    answers = Counter(example.turns[-1].content.split()[0] for example in rows["asked"])
    assert answers == {"poor": 16, "short": 44, "long": 44}
    lines = {(row.turns[-1].content.split()[0], *(row.attributes or {}).values()) for row in rows["asked"]}
    assert lines == {("short", 0, 0), ("poor", 1, 0), ("long", 4, 4)}, "complexity and verbosity of each"
    assert {example.turns[-1].content.split()[0] for example in rows["unasked"]} == {"short"}, "the best of each prompt"
    assert {example.turns[-1].content for example in rows["replay"]} == {"right"}
    random_lines = [tuple(row.attributes.values()) for row in rows["replay"] if row.attributes]
    assert len(random_lines) == 46 and len(set(random_lines)) > 12, "65 % of 70; of 25 combinations"
    assert len({example.id for example in examples}) == 200
    assert summary.mixture == {
        "rows": {"asked": 104, "unasked": 26, "replay": 70},
        "cells": [
            {"values": {"complexity": 0, "verbosity": 0}, "answers": 60, "good": 60, "rows": 44},
            {"values": {"complexity": 1, "verbosity": 0}, "answers": 60, "good": 0, "rows": 16},
            {"values": {"complexity": 4, "verbosity": 4}, "answers": 60, "good": 60, "rows": 44},
        ],
    }
    assert "asked rows by verbosity 0: 60, 1: 0, 2: 0, 3: 0, 4: 44" in summary.table()
    assert any("no row asks for complexity 2, 3: what was never shown" in warning for warning in summary.warnings)


@pytest.mark.parametrize(
    ("balance", "rare"), [("counts", 5), ("root", 12), ("even", 25)]
)  # 45 and 5 answers, 50 rows: shares 9:1, 3:1, 1:1
def test_rare_combinations_are_drawn_more_often_than_they_occur(taste, balance, rare):
    given = [annotation(taste, f"p{number:02d}", candidate("common", 12, 0, 0)) for number in range(45)]
    given += [annotation(taste, f"r{number}", candidate("rare", 12, 4, 4)) for number in range(5)]
    settings = BuildSettings(
        name="steerlm", size=50, balance=balance, unasked_share=0, good_share=1, replay_share=0, most_repeats=9
    )
    examples, _ = build(settings, given, taste)
    count = Counter(example.turns[-1].content for example in examples)
    assert abs(count["rare"] - rare) <= 1 and count.total() == 50


def test_an_answer_is_repeated_so_often_at_most_and_the_lack_is_said(taste):
    settings = BuildSettings(name="steerlm", size=1000, most_repeats=2)
    examples, summary = build(settings, many(taste), taste)
    uses = Counter(
        (example.id.split("#")[0], example.turns[-1].content, bool(example.attributes)) for example in examples
    )
    assert max(uses.values()) == 2
    assert any("rows instead of 1,000: an answer stands in at most 2" in warning for warning in summary.warnings)


def test_the_draw_depends_on_seed_and_content_and_not_on_order(taste):
    given = many(taste)
    first, _ = build(BuildSettings(name="steerlm", size=100), given, taste)
    turned, _ = build(BuildSettings(name="steerlm", size=100), given[::-1], taste)
    other, _ = build(BuildSettings(name="steerlm", size=100, seed=2), given, taste)
    assert sorted(first, key=lambda row: row.id) == sorted(turned, key=lambda row: row.id)
    assert first != other


def test_files_are_replayed_beside_annotated_texts(taste, tmp_path):
    path = tmp_path / "own.jsonl"
    turns = (Turn(role="user", content="count to two"), Turn(role="assistant", content="one two"))
    write_records(path, [TrainingExample(id=f"e{number}", turns=turns) for number in range(60)])
    settings = BuildSettings(name="steerlm", size=200, replay=[path])
    examples, _ = build(settings, many(taste), taste)
    replayed = Counter(example.turns[-1].content for example in rows_by_kind(examples)["replay"])
    assert replayed == {"right": 18, "one two": 52}, "20 annotated texts and 60 of the file: in proportion"
    write_records(
        path, [TrainingExample(id="e", images=("a.png",), turns=(Turn(role="user", content="<image>"), turns[1]))]
    )
    with pytest.raises(UserError, match=r"own.jsonl: e has images; replay takes conversations without images and"):
        build(settings, many(taste), taste)


def test_replayed_files_bring_no_line_of_their_own(taste, tmp_path):
    path = tmp_path / "own.jsonl"
    asked = Turn(role="user", content=f"count\n{taste.steering_line({'complexity': 1, 'verbosity': 2})}")
    write_records(path, [TrainingExample(id="e", turns=(asked, Turn(role="assistant", content="one")))])
    with pytest.raises(
        UserError, match=r"own.jsonl: e asks for attributes; replay takes conversations without images and"
    ):
        build(BuildSettings(name="steerlm", replay=[path]), many(taste), taste)


def test_where_there_is_no_text_that_is_said_and_where_there_is_nothing_else_too(taste):
    examples, summary = build(BuildSettings(name="steerlm"), many(taste, texts=0), taste)
    assert len(examples) == 180 and any("there is no text to replay" in warning for warning in summary.warnings)
    _, quiet = build(BuildSettings(name="steerlm", replay_share=0), many(taste, texts=0), taste)
    assert not any("no text to replay" in warning for warning in quiet.warnings)
    with pytest.raises(UserError, match="method.replay_annotated=false to ask about these as well"):
        build(BuildSettings(name="steerlm"), many(taste, prompts=0), taste)
    texts, _ = build(BuildSettings(name="steerlm", replay_annotated=False), many(taste, prompts=0), taste)
    assert {bool(example.attributes) for example in texts} == {True, False}


def test_fractions_fall_into_the_steps_of_a_sweep(taste):
    data = json.loads(taste.model_dump_json())
    for attribute in data["attributes"]:
        attribute |= {"integer": False, "levels": {}}
    schema = AttributeSchema.model_validate(data)
    given = [annotation(schema, f"p{number}", candidate("a", 12, 1, number / 10)) for number in range(11)]
    _, summary = build(BuildSettings(name="steerlm", unasked_share=0, replay_share=0, good_share=1), given, schema)
    cells = {cell["values"]["verbosity"]: cell["answers"] for cell in summary.mixture["cells"]}
    assert cells == {0: 6, 1: 5}, "0 to 0.5, 0.6 to 1.0 of steps 0, 1, 2, 3, 4"
