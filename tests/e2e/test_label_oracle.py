"""The exact judge of the miniature world through the same command: right answers score higher than wrong ones."""

import json
from pathlib import Path

import pytest

from nemo_mm_align.miniature.truth import truth_of
from nemo_mm_align.miniature.world import SplitSize, WorldSettings, build_world
from nemo_mm_align.schema.records import Annotation, Candidate, CandidateSet, Prompt, read_records, write_records
from tests.e2e.test_label import Command
from tests.judge_server import Files

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("world")
    size, none = SplitSize(easyvqa=0, charts=20, text=10), SplitSize(easyvqa=0, charts=1, text=1)
    build_world(folder, WorldSettings(train=size, dev=none, heldout=none), with_base=False)
    prompts = list(read_records(folder / "train.jsonl", Prompt))
    sets = []
    for prompt in prompts:
        texts = ("", "glorp " * 30, truth_of(prompt).expected)
        sets.append(CandidateSet(prompt_id=prompt.id, candidates=tuple(Candidate(text=text) for text in texts)))
    write_records(folder / "prompts.jsonl", prompts)
    write_records(folder / "candidates.jsonl", sets)
    return Files(folder, prompts, sets)


def test_the_true_answer_scores_highest_and_a_second_run_asks_nobody(world: Files, repository: Path) -> None:
    command = Command(repository, world, None)
    overrides = ("judge=oracle", "runner.concurrency=1", "fsync_every=1000")
    code, output = command.run(*overrides)
    assert code == 0, output
    found = list(read_records(world.folder / "annotations.jsonl", Annotation))
    assert len(found) == 30 and {annotation.judge for annotation in found} == {"oracle"}
    for annotation in found:
        empty, noise, right = (candidate.ratings for candidate in annotation.candidates)
        assert right["correctness"] == 4 and max(empty["correctness"], noise["correctness"]) < 4
        assert noise["verbosity"] > empty["verbosity"] == 0 and annotation.reference_answer
    code, output = command.run(*overrides)
    assert code == 0 and "0 judged now, 30 known before" in output
    lines = (world.folder / "annotations.ledger.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 31 and "rules" in json.loads(lines[0])["settings"]


def test_a_schema_that_the_rules_do_not_know_is_refused(world: Files, repository: Path) -> None:
    override = "attribute_schema.attributes=[{name: kindness}]"
    code, output = Command(repository, world, None).run("judge=oracle", override, "attribute_schema.score=[kindness]")
    assert code == 2 and "the oracle cannot rate 'kindness'" in output
