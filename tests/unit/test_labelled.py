"""Labelled answers: TRL's unpaired records and our own, their faults, and the set that annotations give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.builders import build
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import Example, LabelledExample
from tests.unit.test_builders import BEST, FAIR, GOOD, POOR, annotation, dropped, rated

ASKED = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which tree?"}]}]
SAID = [{"role": "assistant", "content": "An oak."}]
CHAT = {"id": "t", "images": ["oak.png"], "prompt": ASKED, "completion": SAID, "label": True}
TEXT = {"prompt": "Which tree?", "completion": " An oak.", "label": False}
OWN = {"id": "t", "turns": [{"role": "user", "content": "Which?"}], "answer": "An oak.", "label": True}


def read(folder: Path, *records: Mapping[str, Any], **settings: Any) -> list[Example]:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "oak.png").touch()
    return list(read_examples(SourceSettings(path=str(path), **settings), None))


def test_records_of_trl_and_our_own(tmp_path: Path) -> None:
    chat, text = read(tmp_path, CHAT, TEXT)
    assert isinstance(chat, LabelledExample) and isinstance(text, LabelledExample)
    assert (chat.turns[0].content, chat.answer, chat.label) == ("<image>\nWhich tree?", "An oak.", True)
    assert chat.images == (str(tmp_path / "oak.png"),)
    assert (text.turns[0].content, text.answer, text.label, text.images) == ("Which tree?", "An oak.", False, ())
    (own,) = read(tmp_path, OWN | {"score": 9})
    assert isinstance(own, LabelledExample) and (own.answer, own.label, own.score) == ("An oak.", True, 9)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (
            {"prompt": "q", "completion": "a"},
            "label is missing. Remedy: label must be true (a desirable answer) or false",
        ),
        (TEXT | {"label": 1}, "label is int '1'. Remedy: label must be true"),
        (TEXT | {"label": "true"}, "label is str 'true'. Remedy: label must be true"),
        (TEXT | {"completion": " "}, "an answer is empty. Remedy: fill it in or remove the record"),
        (
            CHAT | {"completion": [*ASKED, *SAID]},
            "completion has the turns user, assistant. Remedy: it must be one answer",
        ),
        (TEXT | {"completion": "an <image>"}, "<image> stands outside a user turn"),
        (TEXT | {"weight": 0.5}, "key 'weight' is not read"),
    ],
)
def test_faults_say_file_line_and_remedy(tmp_path: Path, record: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, TEXT, record)
    assert "data.jsonl" in str(caught.value) and "line 2" in str(caught.value) and says in str(caught.value)


@pytest.mark.parametrize("key", ["answer", "label"])
def test_our_own_record_needs_both(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"line 1 .*{key} is missing"):
        read(tmp_path, {name: value for name, value in OWN.items() if name != key})


def test_scores_make_labels(helpsteer: AttributeSchema) -> None:
    """The schema's good score is 10 of 12."""
    both = [rated("d", *POOR), rated("d", *BEST), rated("e", *POOR), rated("e", *POOR)]
    given = [
        annotation(helpsteer, rated("a", *BEST), rated("b", *GOOD), rated("c", 3, 3, 3), rated(" ", *BEST), name="p"),
        annotation(helpsteer, *both, name="q"),
    ]
    examples, summary = build(BuildSettings(name="labelled"), given, helpsteer)
    assert all(isinstance(one, LabelledExample) for one in examples)
    assert [(one.id, one.label, one.score) for one in examples if isinstance(one, LabelledExample)] == [
        ("p#0", True, 12), ("p#1", True, 11), ("p#2", False, 9), ("q#2", False, 2),
    ]  # fmt: skip
    assert dropped(summary) == {
        ("candidate", "empty"): 1,
        ("candidate", "same text as another, scored otherwise"): 2,
        ("candidate", "same text as another"): 1,
    }
    assert (summary.sides["desirable"].count, summary.sides["undesirable"].count, summary.warnings) == (2, 2, [])
    assert "desirable: score 11.50" in summary.table() and "undesirable: score 5.50" in summary.table()


def test_a_gap_is_left_out_and_imbalance_is_told(helpsteer: AttributeSchema) -> None:
    scores = (BEST, GOOD, FAIR, (3, 3, 3), POOR)
    given = [annotation(helpsteer, *(rated(str(place), *score) for place, score in enumerate(scores)))]
    settings = BuildSettings(name="labelled", threshold=10, undesirable_below=5)
    examples, summary = build(settings, given, helpsteer)
    assert [one.label for one in examples if isinstance(one, LabelledExample)] == [True, True, True, False]
    assert dropped(summary) == {("candidate", "a score from 5 to below 10"): 1}
    assert len(summary.warnings) == 1
    assert (
        "recipe.desirable_weight from 0.33 to 0.44, or recipe.undesirable_weight from 2.25 to 3.00"
        in summary.warnings[0]
    )
    with pytest.raises(UserError, match="method.undesirable_below=11 is above method.threshold=10"):
        build(settings.model_copy(update={"undesirable_below": 11}), given, helpsteer)
