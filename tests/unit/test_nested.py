"""Nested settings under dotted names, and what rests on them: a fingerprint that is hashed once."""

import pytest

from nemo_mm_align.core.nested import differing
from nemo_mm_align.labeling import items
from nemo_mm_align.labeling.announcement import differences
from nemo_mm_align.labeling.judges.human.judge import HumanJudge
from nemo_mm_align.schema.attributes import AttributeSchema


def test_settings_that_differ_are_named_with_both_values() -> None:
    before = {"lr": 1, "model": {"sizes": {"layers": 2}, "name": "a", "extra": {"x": 1}}, "gone": [1]}
    after = {"lr": 1, "model": {"sizes": {"layers": 3}, "name": "a", "extra": None}, "new": {}}
    assert list(differing(before, after)) == [
        ("gone", [1], None),
        ("model.extra", {"x": 1}, None),
        ("model.sizes.layers", 2, 3),
        ("new", None, {}),
    ]
    assert not list(differing(before, before))


def test_a_ledgers_line_is_compared_without_its_hash_and_date() -> None:
    line = {"configuration": "f00", "time": "now", "settings": {"stop": ["a"], "rubric": "short", "top_p": None}}
    now = {"settings": {"stop": ("a",), "rubric": "r" * 50, "top_p": 0.5}}
    assert list(differences(line, now)) == ["settings.rubric", "settings.top_p None -> 0.5"]


def test_the_configuration_of_a_run_is_hashed_once(helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, digest = [], items.digest
    monkeypatch.setattr(items, "digest", lambda value: hashed.append(value) or digest(value))
    context = items.LabelContext(HumanJudge("anna"), helpsteer, True)
    assert context.fingerprint == context.fingerprint == digest(context.configuration) and len(hashed) == 1
    assert items.LabelContext(HumanJudge("bert"), helpsteer, True).fingerprint != context.fingerprint
