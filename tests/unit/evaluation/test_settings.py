"""Settings of `evaluate` that would be read by nobody, or names that no file may have, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.settings import settings_of
from nemo_mm_align.schema.attributes import AttributeSchema

COMPARE: dict[str, Any] = {"compare": ["a", "b"]}
ANSWERS: dict[str, Any] = {"answers": {"base": "base.jsonl"}}


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (COMPARE | {"dry_run": True}, "give it without dry_run"),
        (COMPARE | {"tasks": {"pope": {}}, "log_to": "run"}, "give it without tasks, log_to"),
        (COMPARE | ANSWERS, "give it without answers"),
        (ANSWERS | {"processes": 2}, "processes is for models that answer now"),
        (ANSWERS | {"generate": {"max_batch_tokens": 8}}, "generate is for models that answer now"),
        ({"answers": {"../../base": "base.jsonl"}}, "'../../base': its files are called so"),
        ({"answers": {"..": "base.jsonl"}}, "'..': its files are called so"),
        (ANSWERS | {"steering": {"a/b": "sweep.jsonl"}}, "'a/b': its files are called so"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, helpsteer: AttributeSchema, said: dict[str, Any], text: str) -> None:
    schema = helpsteer.model_dump(mode="json")
    with pytest.raises(UserError) as caught:
        settings_of({"out": str(tmp_path), "attribute_schema": schema, **said})
    assert text in str(caught.value)


def test_a_name_with_blanks_is_one(tmp_path: Path, helpsteer: AttributeSchema) -> None:
    schema = helpsteer.model_dump(mode="json")
    read = settings_of({"out": str(tmp_path), "attribute_schema": schema, "answers": {"my dpo": "a b.jsonl"}})
    assert read.answers == {"my dpo": Path("a b.jsonl")}
