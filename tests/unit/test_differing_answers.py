"""Counting the answers in which two layouts differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_mm_align.benchmarks.differing_answers import Differing, compare, main
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.records import Candidate, CandidateSet, write_records


def answers(path: Path, *texts: tuple[str, ...]) -> Path:
    sets = [
        CandidateSet(prompt_id=f"p{place}", candidates=(Candidate(text=first, follow_up_answers=tuple(others)),))
        for place, (first, *others) in enumerate(texts)
    ]
    write_records(path, sets)
    return path


def test_differing_answers_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = answers(tmp_path / "a.jsonl", ("a b c d",), ("e", "f g h i"), ("j",))
    other = answers(tmp_path / "b.jsonl", ("a b c x",), ("e", "f"), ("j",))
    assert compare(one, other) == Differing(answers=4, differing=2, common=(3 / 4 + 1 / 4) / 2)
    assert compare(one, one) == Differing(4, 0, 1.0)
    assert main([str(one), str(other)]) == 0
    assert capsys.readouterr().out.startswith(
        "2 of 4 answers differ (50.0 %); a differing one begins with 50 % in common"
    )


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="answers other prompts"):
        compare(answers(tmp_path / "a.jsonl", ("a",)), answers(tmp_path / "b.jsonl", ("a",), ("b",)))
