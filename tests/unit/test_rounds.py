"""Steps between the stages of rounds: shares, sets put together, and the review that writes the table and ends the rounds."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import get_args

import pytest

from nemo_mm_align.callbacks import health_rules, watch_rules
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_files import append_line, write_diverged, write_done
from nemo_mm_align.core.run_health import Finding, Rule, RunHealth, Verdict, write_health
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, Prompt, RatedCandidate, Turn, write_records
from nemo_mm_align.workflow.round_record import RoundRecord, read_record
from nemo_mm_align.workflow.rounds import GatherSettings, ReviewSettings, ShareSettings, gather, review, run_step, share


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_shares_have_the_mixture_of_the_file_and_find_their_images(tmp_path: Path) -> None:
    source = tmp_path / "data/prompts.jsonl"
    source.parent.mkdir()
    records = [{"id": str(number), "images": ["a.png"] if number == 1 else []} for number in range(5)]
    source.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    share(ShareSettings(prompts=source, count=2), tmp_path / "results")
    first, second = (lines(tmp_path / f"results/round_{number}/prompts.jsonl") for number in (1, 2))
    assert [item["id"] for item in first] == ["0", "2", "4"] and [item["id"] for item in second] == ["1", "3"]
    assert second[0]["images"] == [f"{tmp_path}/data/a.png"]
    share(ShareSettings(prompts=source, count=2, image_root=tmp_path), tmp_path / "rooted")
    assert lines(tmp_path / "rooted/round_2/prompts.jsonl")[0]["images"] == ["a.png"]
    with pytest.raises(UserError, match="5 prompts cannot be shared among 6 rounds"):
        share(ShareSettings(prompts=source, count=6), tmp_path / "more")
    assert not list((tmp_path / "more").rglob("*.jsonl"))


def test_sets_of_several_rounds_become_one(tmp_path: Path) -> None:
    sets = [tmp_path / f"round_{number}/training.jsonl" for number in (1, 2)]
    for path in sets:
        path.parent.mkdir()
        path.write_text('{"id": "p", "images": ["i.png"]}\n')
    gather(GatherSettings(sets=sets, out=tmp_path / "round_2/all.jsonl"))
    assert lines(tmp_path / "round_2/all.jsonl") == [
        {"id": "round_1/p", "images": [f"{tmp_path}/round_1/i.png"]},
        {"id": "round_2/p", "images": ["i.png"]},
    ]


class Results:
    """A results folder whose rounds are filled in as a launch would."""

    def __init__(self, folder: Path, schema: AttributeSchema) -> None:
        self.folder, self.schema = folder, schema

    def round(self, number: int, levels: list[list[int]], worries: list[Rule] | None) -> None:
        """Samples whose attributes are all of one level, a candidate each; `worries` None: the training diverged."""
        folder = self.folder / f"round_{number}"
        (folder / "dpo/metrics").mkdir(parents=True)
        facts = {"judge": "j", "schema_name": self.schema.name, "schema_fingerprint": self.schema.fingerprint}
        write_records(
            folder / "annotations.jsonl",
            [
                Annotation(
                    prompt=Prompt(id=str(place), turns=(Turn(role="user", content="q"),)),
                    candidates=tuple(
                        RatedCandidate(text="two words", ratings=dict.fromkeys(self.schema.names, level))
                        for level in row
                    ),
                    **facts,
                )
                for place, row in enumerate(levels)
            ],
        )
        (folder / "training.jsonl.summary.json").write_text('{"kept": 3, "prompts": 4, "prompts_kept": 3}')
        for step in range(10):
            append_line(folder / "dpo/metrics/training.jsonl", {"step": step + 1, "loss": 1.0 - step / 10})
        if worries is None:
            write_diverged(folder / "dpo", {"step": 11, "what": "the loss is nan", "micro_batches": []})
            return
        write_done(folder / "dpo", 10)
        found = [Finding(rule=name, worry=True, text=name) for name in worries]
        write_health(folder / "dpo", RunHealth(verdict=Verdict(steps=10, findings=found)))

    def review(self, number: int, trained: bool = True, **settings: object) -> RoundRecord:
        folder = self.folder / f"round_{number}"
        before = str(self.folder / f"round_{number - 1}/dpo") if number > 1 else "/base"
        files = {"training_set": folder / "training.jsonl", "run": folder / "dpo"} if trained else {}
        given = ReviewSettings(
            number=number, sampled_from=before, annotations=folder / "annotations.jsonl", **files, **settings
        )
        return review(given, self.folder, self.schema)

    @property
    def model(self) -> str:
        return str((self.folder / "model").readlink())

    def stopped(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("STOPPED*"))


@pytest.fixture
def results(tmp_path: Path, helpsteer: AttributeSchema) -> Results:
    return Results(tmp_path, helpsteer)


def test_a_review_counts_and_the_model_is_the_rounds(results: Results) -> None:
    results.round(1, [[4, 0], [3, 3]], ["length"])
    found = results.review(1, stop_on=["entropy", "diverged"])
    assert found.samples is not None and found.trained is not None and found.training_set is not None
    assert [found.samples.score, found.samples.standard_error] == pytest.approx([7.5, 1.5])  # 6 and 9
    assert found.samples.attributes["verbosity"] == 2.5 and (found.samples.words, found.samples.cut) == (2, 0)
    assert found.trained.metrics == {"loss": pytest.approx(0.15)}, "of the last two steps"
    assert (found.training_set.examples, found.training_set.prompts_kept) == (3, 0.75)
    assert (found.stopped, results.model, results.stopped()) == (None, "round_1/dpo", [])
    table = (results.folder / "rounds.md").read_text().splitlines()
    assert re.split(r" *\| *", table[2])[1:-1] == [
        "1", "7.50 ± 1.50", *["2.50"] * 5, "2.0", "0%", "3", "75%", "0.1500", "look at length",
    ]  # fmt: skip
    assert json.loads((results.folder / "rounds.json").read_text())["model"] == f"{results.folder}/round_1/dpo"


@pytest.mark.parametrize(("worries", "said"), [(["entropy"], "look at entropy"), (None, "step 11: the loss is nan")])
def test_a_bad_verdict_ends_the_rounds(results: Results, worries: list[Rule] | None, said: str) -> None:
    results.round(1, [[2]], [])
    results.review(1)
    results.round(2, [[3]], worries)
    found = results.review(2, stop_on=["entropy", "diverged"])
    assert found.stopped is not None and said in found.stopped
    assert (results.model, results.stopped()) == ("round_1/dpo", ["round_2/STOPPED_BY_TRAINING"])
    assert found.stopped in (results.folder / "rounds.md").read_text()
    again = results.review(2, stop_on=[])
    assert (again.stopped, results.model, results.stopped()) == (None, "round_2/dpo", [])


@pytest.mark.parametrize(("level", "model"), [(1, "/base"), (2, "/base"), (3, "round_1/dpo")])
def test_samples_that_are_not_better_end_the_rounds(results: Results, level: int, model: str) -> None:
    results.round(1, [[2]], [])
    results.review(1, least_gain=3.0)
    results.round(2, [[level]], [])
    found = results.review(2, trained=False, least_gain=3.0)
    assert found.stopped is not None and f"score {3 * level:.3f}, {3 * (level - 2):+.3f}" in found.stopped
    assert (results.model, results.stopped()) == (model, ["round_2/STOPPED_BY_SAMPLES"])
    assert results.review(2, trained=False, least_gain=2.5).stopped is None or level < 3
    record = read_record(results.folder / "round_2/round.json")
    assert record is not None and record.trained is None


def test_what_is_not_there_is_named(results: Results, helpsteer: AttributeSchema) -> None:
    results.round(1, [[2]], [])
    (results.folder / "round_1/dpo/DONE").unlink()
    with pytest.raises(UserError, match="the training has not finished"):
        results.review(1)
    values = {
        "results": "r",
        "attribute_schema": helpsteer.model_dump(mode="json"),
        "step": "gather",
        "gather": {"sets": ["a"]},
    }
    with pytest.raises(UserError, match=r"gather\.out"):
        run_step(values)
    with pytest.raises(UserError, match="choose from share, gather, review"):
        run_step(values | {"step": "train"})


def test_reasons_are_the_rules_that_can_worry() -> None:
    source = inspect.getsource(health_rules) + inspect.getsource(watch_rules)
    assert set(re.findall(r'_worry\(\s*"([^"]+)"', source) + re.findall(r'rule="([^"]+)"', source)) == {*get_args(Rule)}
