"""Lines of a ledger: what is kept of long replies, lines changed by hand, images that change."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.labeling.judge_ledger import JudgeAttempt, JudgeLedger
from nemo_mm_align.labeling.quality.collect import collect
from nemo_mm_align.llm.ledger import RAW_LIMITS
from nemo_mm_align.llm.running.runner import RunnerSettings
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.judge_server import (
    Exchange,
    Files,
    Reply,
    judge_server,
)
from tests.unit.ledger.runs import (
    COUNT,
    JUDGES,
    Run,
    annotations_path,
    assert_right,
    ledger_path,
    lines_of,
    write_lines,
)


@pytest.mark.parametrize("status", ["ok", "failed"])
def test_a_long_reply_is_kept_up_to_a_limit_with_length_and_hash(status: str, tmp_path: Path) -> None:
    limit = RAW_LIMITS[status]
    common = {"prompt_id": "p", "configuration": "c", "order": [0], "status": status}
    outcome = {"ratings": [{"a": 3}], "reasoning": [""]} if status == "ok" else {"kind": "server", "message": "x"}
    with JudgeLedger(tmp_path / "ledger.jsonl") as ledger:
        for name, length in (("whole", limit), ("long", limit + 1)):
            ledger.add(JudgeAttempt.model_validate({**common, **outcome, "key": name, "raw": "ü" * length}))
    whole, long = map(json.loads, (tmp_path / "ledger.jsonl").read_text(encoding="utf-8").splitlines())
    assert whole["raw"] == "ü" * limit and "raw_length" not in whole and "raw_sha256" not in whole
    assert (long["raw"], long["raw_length"]) == ("ü" * limit, limit + 1)
    assert long["raw_sha256"] == hashlib.sha256(("ü" * (limit + 1)).encode()).hexdigest()


@pytest.mark.parametrize("judge", JUDGES)
def test_a_reply_of_megabytes_makes_no_ledger_of_megabytes(judge: str, run: Run, files: Files) -> None:
    def behaviour(exchange: Exchange) -> Reply:
        return exchange.front.generated(f"{json.dumps({'ratings': []})}{' ' * 3_000_000}")

    with judge_server(behaviour) as server, pytest.raises(UserError, match="3 of 3 prompts have no annotation"):
        run(server, judge, runner={"concurrency": 1, "max_attempts": 1})
    failed = lines_of(files)[1:]
    assert {(line["kind"], line["raw_length"]) for line in failed} == {("unparsable", 3_000_015)}
    assert ledger_path(files).stat().st_size < COUNT * 25_000


def drop(name: str) -> Callable[[dict], dict]:
    return lambda line: {**line, name: line[name][:-1]}


def rate(value: object) -> Callable[[dict], dict]:
    def change(line: dict) -> dict:
        first, second, *others = line["ratings"]
        return {**line, "ratings": [first, {**second, "coherence": value}, *others]}

    return change


CHANGES = {
    "fewer ratings": (drop("ratings"), "3 ratings and 4 reasonings for 4 candidates"),
    "fewer reasonings": (drop("reasoning"), "4 ratings and 3 reasonings for 4 candidates"),
    "shorter order": (drop("order"), "order .* is none of 4 candidates"),
    "order of others": (lambda line: {**line, "order": [0, 1, 2, 7]}, r"order \[0, 1, 2, 7\] is none of 4 candidates"),
    "order twice": (lambda line: {**line, "order": [0, 1, 1, 2]}, "order .* is none of 4 candidates"),
    "out of range": (rate(9), "ratings of candidate 2: coherence=9 is outside 0 to 4"),
    "fraction": (rate(2.5), "ratings of candidate 2: coherence=2.5 is not a whole number"),
    "text": (rate("good"), "not an attempt"),
    "missing": (lambda line: {**line, "ratings": [{}] * 4}, "ratings of candidate 1: no value for helpfulness"),
    "other attribute": (
        lambda line: {**line, "ratings": [{**line["ratings"][0], "charm": 3}] * 4},
        "ratings of candidate 1: unknown attribute 'charm'",
    ),
    "no ratings": (lambda line: {name: line[name] for name in line if name != "ratings"}, "0 ratings and 4 reasonings"),
    "unknown key": (lambda line: {**line, "comment": "mine"}, r"not an attempt \(comment: Extra inputs"),
}


@pytest.mark.parametrize(("change", "problem"), CHANGES.values(), ids=CHANGES)
def test_a_line_changed_by_hand_is_named(change: Callable, problem: str, run: Run, files: Files) -> None:
    with judge_server() as server:
        run(server)
        lines = lines_of(files)
        write_lines(files, [*lines[:2], change(lines[2]), *lines[3:]])
        before = annotations_path(files).read_bytes()
        with pytest.raises(RecordError, match=rf"{re.escape(str(ledger_path(files)))}:3: {problem}") as caught:
            run(server)
        assert (
            caught.value.remedy == "delete this line (its request is then asked again) or restore the file from a copy."
        )
        assert annotations_path(files).read_bytes() == before and len(server.exchanges) == COUNT
        write_lines(files, [*lines[:2], *lines[3:]])
        run(server)
    assert len(server.exchanges) == COUNT + 1, "the remedy is one"
    assert_right(files)


def test_the_report_names_lines_too(run: Run, files: Files, helpsteer: AttributeSchema) -> None:
    with judge_server() as server:
        run(server)
    lines = lines_of(files)
    write_lines(files, [lines[0], rate(9)(lines[1]), *lines[2:]])
    with pytest.raises(
        RecordError, match=r"annotations\.ledger\.jsonl:2: not an attempt at a judgement .*outside 0 to 4"
    ):
        collect(annotations_path(files), helpsteer, ledger_path(files))
    text = annotations_path(files).read_text(encoding="utf-8").replace('"coherence":', '"coherence":1', 1)
    annotations_path(files).write_text(f"\n{text}", encoding="utf-8")
    with pytest.raises(RecordError, match=r"annotations\.jsonl:2: coherence=1\d is outside 0 to 4"):
        collect(annotations_path(files), helpsteer)


@pytest.mark.parametrize(("name", "most"), [("concurrency", 1024), ("processes", 64)])
def test_numbers_that_no_machine_holds_are_refused(name: str, most: int) -> None:
    assert getattr(RunnerSettings.model_validate({name: most}), name) == most
    for value in (most + 1, 10**9):
        with pytest.raises(
            ValidationError, match=rf"{name}\n.*{value:,} are too many for one machine.*at most {most:,}"
        ):
            RunnerSettings.model_validate({name: value})


@pytest.mark.parametrize("judge", JUDGES)
def test_an_image_that_changes_during_a_run_is_not_judged_under_its_old_name(
    judge: str, run: Run, files: Files
) -> None:
    last = files.folder / files.prompts[2].images[0]
    new = (files.folder / files.prompts[0].images[0]).read_bytes()

    def behaviour(exchange: Exchange) -> None:
        last.write_bytes(new)

    with judge_server(behaviour) as server:
        with pytest.raises(
            UserError, match=r"1 of 3 prompts have no annotation.*2\.webp: changed since this run began"
        ):
            run(server, judge)
        assert len(server.exchanges) == 2 and lines_of(files)[-1]["kind"] == "input"
        run(server, judge)
    assert len(server.exchanges) == 3 and server.exchanges[2].images == [new]
    assert_right(files)


def test_an_image_that_comes_back_is_asked_about(run: Run, files: Files) -> None:
    last = files.folder / files.prompts[2].images[0]
    data = last.read_bytes()
    with judge_server(lambda exchange: last.unlink(missing_ok=True)) as server:
        with pytest.raises(UserError, match=r"2\.webp: no such image"):
            run(server)
        last.write_bytes(data)
        server.behaviour = None
        run(server)
    assert len(server.exchanges) == 3
    assert_right(files)
