"""`scripts/generate.py` on prompts with follow-ups and decoding of their own: the same in every layout, killed and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nemo_mm_align.schema.records import CandidateSet, Decoding, Prompt, read_records, write_records
from tests.decoding_model import make_folder, make_prompts
from tests.distributed import REPOSITORY, free_port
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.parallel

PROMPTS = 24
FOLLOW_UPS = ((), ("w1 w2",), ("w5 w6 w7", "w8"))
DECODING = (None, Decoding(temperature=0.0), Decoding(temperature=0.9, max_new_tokens=5), Decoding(max_new_tokens=30))
LAYOUTS = {"dp2": (), "tp2": ("tensor_model_parallel_size=2",), "pp2": ("pipeline_model_parallel_size=2",)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dialogues")
    make_folder(folder / "model")
    plain = list(read_records(make_prompts(folder, PROMPTS), Prompt))
    write_records(folder / "prompts.jsonl", [with_own_ways(place, prompt) for place, prompt in enumerate(plain)])
    write_records(folder / "plain.jsonl", [one for place, one in enumerate(plain) if is_plain(place)])
    return folder


def is_plain(place: int) -> bool:
    return place % 3 == 0 and place % 4 == 0


def with_own_ways(place: int, prompt: Prompt) -> Prompt:
    return prompt.model_copy(update={"follow_ups": FOLLOW_UPS[place % 3], "decoding": DECODING[place % 4]})


def start(folder: Path, out: str, *words: str, ranks: int = 1, prompts: str = "prompts.jsonl") -> subprocess.Popen[str]:
    """In float64: answers are compared between layouts, and in fp32 rounding may choose a token."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(free_port())]
    command = [
        sys.executable, *(launcher if ranks > 1 else []), str(REPOSITORY / "tests/float64.py"),
        str(REPOSITORY / "scripts/generate.py"), "checkpoint=model", "template=vicuna_v1", "template.system=",
        f"prompts={prompts}", f"out={out}", "max_new_tokens=12", "temperature=0.8", *words,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)  # type: ignore[call-overload]


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> bytes:
    finish(start(folder, "undisturbed.jsonl"))
    return (folder / "undisturbed.jsonl").read_bytes()


def test_each_prompt_is_answered_its_own_way_and_says_so(folder: Path, undisturbed: bytes) -> None:
    found = list(read_records(folder / "undisturbed.jsonl", CandidateSet))
    assert [one.prompt_id for one in found] == [f"p{number}" for number in range(PROMPTS)]
    for place, one in enumerate(found):
        (candidate,) = one.candidates
        assert len(candidate.follow_up_answers) == len(FOLLOW_UPS[place % 3]), one.prompt_id
        temperature, tokens = ((0.8, 12), (0.0, 12), (0.9, 5), (0.8, 30))[place % 4]
        assert (one.sampling["temperature"], one.sampling["max_new_tokens"]) == (temperature, tokens)
        lengths = (candidate.num_tokens or 0, *candidate.follow_up_num_tokens)
        ends = (candidate.finish_reason, *candidate.follow_up_finish_reasons)
        assert len(lengths) == len(ends) == 1 + len(candidate.follow_up_answers) and max(lengths) <= tokens
        assert all(length == tokens for length, end in zip(lengths, ends, strict=True) if end == "length")
        assert candidate.total_tokens == sum(lengths)
    assert any((one.candidates[0].num_tokens or 0) > 12 for one in found[3::4]), "as long as its prompt allows"


def test_prompts_without_ways_of_their_own_are_answered_as_if_alone(folder: Path, undisturbed: bytes) -> None:
    finish(start(folder, "alone.jsonl", prompts="plain.jsonl"))
    alone = (folder / "alone.jsonl").read_bytes().splitlines()
    assert alone == [line for place, line in enumerate(undisturbed.splitlines()) if is_plain(place)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_file(folder: Path, undisturbed: bytes, layout: str) -> None:
    finish(start(folder, f"{layout}.jsonl", *LAYOUTS[layout], ranks=2))
    assert (folder / f"{layout}.jsonl").read_bytes() == undisturbed


def test_killed_and_resumed_the_file_equals_an_undisturbed_run(folder: Path, undisturbed: bytes) -> None:
    """Killed once a dialogue has ended and before all have."""
    for number in range(5):
        out = folder / f"resumed{number}.jsonl"
        before = killed(folder, out)
        if before.count(b"\n") < PROMPTS:
            break
    assert b"follow_up_answers" in before and before.count(b"\n") < PROMPTS
    finish(start(folder, out.name, FEW_AT_A_TIME, ranks=2))
    assert out.read_bytes() == undisturbed
    assert set(before.splitlines(keepends=True)[:-1]) <= set(undisturbed.splitlines(keepends=True))


FEW_AT_A_TIME = "max_batch_tokens=150"


def killed(folder: Path, out: Path) -> bytes:
    """Kill a run that has written a dialogue, and return what it has written."""
    process = start(folder, out.name, FEW_AT_A_TIME, ranks=2)

    def has_written() -> bool:
        return process.poll() is not None or (out.is_file() and b"follow_up_answers" in out.read_bytes())

    wait_until(has_written)
    kill(process)
    return out.read_bytes()


def kill(process: subprocess.Popen[str]) -> None:
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    process.communicate(timeout=PATIENCE_S)


def test_sampling_and_settings_that_contradict_each_other_are_refused(folder: Path) -> None:
    for words, said in (
        (("num_samples=2",), "num_samples=2 with temperature=0"),
        (("max_new_tokens=4000",), "lower max_new_tokens"),
    ):
        process = start(folder, "refused.jsonl", *words)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 2 and said in errors and "Traceback" not in errors, errors


def test_tasks_are_answered_with_one_model(folder: Path) -> None:
    """By a name of its own and by another one, from the user's own folder of configurations."""
    (folder / "own/task").mkdir(parents=True)
    (folder / "own/task/mine.yaml").write_text("_target_: tests.own_task.OwnTask\n")
    words = ["prompts=null", "--config-dir", "own", "tasks={mine: {}, few: {task: mine, count: 1, tokens: 3}}"]
    finish(start(folder, "asked", *words, ranks=2))
    for name, count, tokens in (("mine", 3, 6), ("few", 1, 3)):
        prompts = list(read_records(folder / f"asked/{name}.prompts.jsonl", Prompt))
        answers = list(read_records(folder / f"asked/{name}.jsonl", CandidateSet))
        assert [one.id for one in prompts] == [one.prompt_id for one in answers] and len(answers) == count
        assert [len(one.candidates[0].follow_up_answers) for one in answers] == [1, 0, 1][:count]
        assert {one.sampling["max_new_tokens"] for one in answers} == {tokens}
    before = (folder / "asked/mine.jsonl").read_bytes()
    finish(start(folder, "asked", *words))
    assert (folder / "asked/mine.jsonl").read_bytes() == before and not (folder / "asked_unasked").exists()
    process = start(folder, "asked", *words[:-1], "tasks={mine: {tokens: 7}}")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2 and "asked/mine.prompts.jsonl: holds other prompts than the task mine has" in errors
    assert json.loads((folder / "asked/mine.layout.json").read_text())["world_size"] == 1
