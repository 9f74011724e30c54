"""What a configuration of 1a72c78 can name still means something: judges with their settings, formats, a judge's own imports."""

from __future__ import annotations

import gzip
import importlib
import inspect
import json
from typing import Any

import pytest

from nemo_mm_align.labeling.registry import MOVED, build_judge
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.golden.runs import GOLDEN

SETTINGS = json.loads(gzip.decompress((GOLDEN / "settings.json.gz").read_bytes()))
JUDGES = [name for name in SETTINGS if name.startswith("label judge=")]

OWN_JUDGE = {
    "nemo_mm_align.attributes": ["AttributeSchema"],
    "nemo_mm_align.labeling.judge": ["Judge", "JudgeFailure", "JudgeReply", "JudgeRequest"],
    "nemo_mm_align.records": [
        "Annotation",
        "Candidate",
        "CandidateSet",
        "Prompt",
        "Turn",
        "read_records",
        "write_records",
    ],
}
"""What a judge of one's own, named with `_target_`, and code around the files of a run import."""

FORMATS = ("records", "nemo_steerlm", "llava", "llava_dpo", "nemo_dpo", "messages", "messages_dpo")


def nested(settings: dict[str, Any], section: str) -> dict[str, Any]:
    """A section of flat settings as a mapping."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        head, *names = key.split(".")
        if head == section:
            place = found
            for name in names[:-1]:
                place = place.setdefault(name, {})
            place[names[-1]] = value
    return found


@pytest.mark.parametrize("composition", JUDGES)
def test_a_judge_is_made_by_its_path_with_the_settings_of_then(
    composition: str, helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "AIza-golden-0123456789")
    settings = nested(SETTINGS[composition], "judge")
    given = {
        name: "http://127.0.0.1:9/v1" if value == "???" and "url" in name else value for name, value in settings.items()
    }
    judge = build_judge({name: "any" if value == "???" else value for name, value in given.items()}, helpsteer)
    made = type(getattr(judge, "client", judge))
    named = settings["_target_"]
    assert f"{made.__module__}.{made.__name__}" == MOVED.get(named, named) and callable(judge.judge)


def test_every_target_of_a_shipped_configuration_is_covered() -> None:
    targets = {(key, value) for settings in SETTINGS.values() for key, value in settings.items() if "_target_" in key}
    assert targets == {("judge._target_", SETTINGS[name]["judge._target_"]) for name in JUDGES} and len(targets) == 5


def test_what_a_judge_of_ones_own_imports_is_where_it_was() -> None:
    for module, names in OWN_JUDGE.items():
        assert not [name for name in names if not hasattr(importlib.import_module(module), name)], module
    from nemo_mm_align.labeling.judge import JudgeFailure, JudgeReply, JudgeRequest

    asked = list(inspect.signature(JudgeRequest).parameters)
    assert asked[:5] == ["prompt", "candidates", "image_paths", "schema", "want_reference"]
    assert list(inspect.signature(JudgeReply).parameters)[:3] == ["ratings", "reasoning", "reference_answer"]
    assert list(inspect.signature(JudgeFailure).parameters)[:3] == ["kind", "message", "raw"]


def test_every_format_of_training_data_has_its_name() -> None:
    from nemo_mm_align.datasets.formats import FORMATS as known

    assert not set(FORMATS) - set(known)
