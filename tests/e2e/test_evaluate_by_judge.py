"""`scripts/evaluate.py` on prompts of anybody's, rated by a judge behind OpenAI's protocol; alone and at a chain's end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.schema.records import (
    Candidate,
    CandidateSet,
    Prompt,
    Turn,
    read_records,
    write_records,
)
from tests.judge_server import FAULTS, Exchange, JudgeServer, Reply, judge_server, true_ratings
from tests.tiny import tiny_llava
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e

COUNT = 5


@pytest.fixture
def prompts(tmp_path: Path) -> list[Prompt]:
    """Prompts with a picture each, and one without."""
    made = []
    for number in range(COUNT):
        Image.new("RGB", (24, 24), (40 * number, 90, 10)).save(tmp_path / f"{number}.png")
        turn = Turn(role="user", content=f"<image>\nWhat is in picture {number}?")
        made.append(Prompt(id=f"p{number}", images=(f"{number}.png",), turns=(turn,), metadata={"source": "mine"}))
    made.append(Prompt(id="text", turns=(Turn(role="user", content="Why is the sky blue?"),)))
    write_records(tmp_path / "heldout.jsonl", made)
    return made


def write_answers(path: Path, prompts: list[Prompt], text: str, asked: dict[str, float] | None = None) -> None:
    sampling: dict[str, Any] = {"attributes": asked} if asked else {}
    lines = [
        CandidateSet(prompt_id=prompt.id, candidates=(Candidate(text=f"{text} {prompt.id}"),), sampling=sampling)
        for prompt in prompts
    ]
    write_records(path, lines)


def run(repository: Path, folder: Path, server: JudgeServer | None, *words: str) -> subprocess.CompletedProcess[str]:
    address = f"judge.base_url={server.address}/v1" if server else ""
    judge = ("judge=openai_compatible", address, "judge.model=j", "judge.api_key_variable=null") if server else ()
    command = [sys.executable, repository / "scripts/evaluate.py", *judge, "prompts=heldout.jsonl", "out=out", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)


def fails_for(text: str):
    """A judge that blocks what it sees of this answer."""

    def behave(exchange: Exchange) -> Reply | None:
        return FAULTS["reply_blocked"].reply(exchange) if text in exchange.candidates[0] else None

    return behave


def test_a_judge_rates_answers_and_what_it_cannot_rate_is_missing(repository: Path, tmp_path: Path, prompts) -> None:
    write_answers(tmp_path / "base.jsonl", prompts, "grass at")
    write_answers(tmp_path / "dpo.jsonl", prompts, "a green field of grass at")
    files = "answers={base: base.jsonl, dpo: dpo.jsonl}"
    with judge_server(fails_for("field of grass at p2"), allow_text=True) as server:
        done = run(repository, tmp_path, server, files)
        assert done.returncode == 0, done.stderr
        asked = len(server.exchanges)
        again = run(repository, tmp_path, server, files)
        assert again.returncode == 0 and len(server.exchanges) == asked, "nothing is asked twice"
    assert asked == 2 * len(prompts)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert (results["task"], results["prompts"]) == ("attributes", {"image prompts": COUNT, "text prompts": 1})
    base, dpo = (results["methods"][name]["measurements"]["score"] for name in ("base", "dpo"))
    expected = {}
    for name, text in (("base", "grass at"), ("dpo", "a green field of grass at")):
        for prompt in prompts:
            image = (tmp_path / prompt.images[0]).read_bytes() if prompt.images else b""
            rated = true_ratings(image, f"{text} {prompt.id}")
            expected[name, prompt.id] = rated["helpfulness"] + rated["correctness"] + rated["coherence"]
    ids = [prompt.id for prompt in prompts if prompt.id != "p2"]
    assert base["value"] == pytest.approx(sum(expected["base", prompt.id] for prompt in prompts) / len(prompts))
    assert dpo["value"] == pytest.approx(sum(expected["dpo", one] for one in ids) / len(ids))
    assert (base["n"], base["failed"], dpo["n"], dpo["failed"]) == (6, 0, 5, 1)
    assert dpo["minus_base"] is None, "one of six is too many to compare"
    judged = {one.prompt_id: one for one in read_records(tmp_path / "out/judged/dpo.jsonl", ScoredAnswer)}
    assert judged["p2"].failed == "safety" and not judged["p2"].values
    assert "1 of 6 answers (17 %) could not be scored" in (tmp_path / "out/report.html").read_text()


def test_a_dry_run_needs_no_key_and_a_run_does(repository: Path, tmp_path: Path, prompts, monkeypatch) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    write_answers(tmp_path / "base.jsonl", prompts, "grass at")
    words = ("judge=gemini", "answers={base: base.jsonl}")
    estimated = run(repository, tmp_path, None, *words, "dry_run=true")
    assert estimated.returncode == 0, estimated.stderr
    assert "guessed from the length" in " ".join(estimated.stdout.split()) and not (tmp_path / "out").exists()
    refused = run(repository, tmp_path, None, *words)
    assert refused.returncode == 2 and "no API key for Gemini: set the environment variable" in refused.stderr


def test_steering_is_measured_by_the_judge(repository: Path, tmp_path: Path, prompts) -> None:
    pictures = [prompt for prompt in prompts if prompt.images]
    write_answers(tmp_path / "base.jsonl", prompts, "grass at")
    for value in (0, 4):
        write_answers(tmp_path / f"{value}.jsonl", pictures, "word " * (value + 1), {"verbosity": value})
    with judge_server(allow_text=True) as server:
        words = ("answers={base: base.jsonl}", "steering=[0.jsonl,4.jsonl]")
        done = run(repository, tmp_path, server, *words)
    assert done.returncode == 0, done.stderr
    steering = json.loads((tmp_path / "out/results.json").read_text())["steering"]
    assert [point["asked"] for point in steering["verbosity"]["curve"]] == [0, 4]


def test_mistakes_are_said_before_anything_is_asked(repository: Path, tmp_path: Path, prompts) -> None:
    write_answers(tmp_path / "base.jsonl", prompts, "grass at")
    with judge_server(allow_text=True) as server:
        for words, said in (
            (["answers={base: nothing.jsonl}"], "nothing.jsonl: no such file"),
            (["answers={base: base.jsonl}", "task=mt"], "task=mt: there is no such option"),
            (["answers={base: base.jsonl}", "budget.max_cost=1"], "needs the judge's price"),
        ):
            done = run(repository, tmp_path, server, *words)
            assert done.returncode == 2 and "Traceback" not in done.stderr and said in done.stderr, done.stderr
        person = run(repository, tmp_path, None, "answers={base: base.jsonl}", "judge=human", "judge.annotator=a")
        assert person.returncode == 2 and "judge=human labels on a page" in person.stderr
        (tmp_path / "2.png").unlink()
        done = run(repository, tmp_path, server, "answers={base: base.jsonl}")
        assert done.returncode == 2 and "2.png: no such image" in done.stderr
    assert not server.exchanges and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_chain_with_a_model_of_ones_own_ends_in_its_report(repository: Path, tmp_path: Path, prompts) -> None:
    """From prompts to the report on a tiny LLaVA that knows nothing of the miniature; every rating is the judge's."""
    model = tiny_llava(tmp_path / "llava")
    with judge_server(allow_text=True) as server:
        judge = {"base_url": f"{server.address}/v1", "model": "j"}
        asked = [
            word
            for stage in ("label", "evaluate")
            for word in (
                f"{stage}.judge=openai_compatible",
                f'{stage}.overrides=["judge.base_url={judge["base_url"]}","judge.model=j","judge.api_key_variable=null"]',
            )
        ]
        command = [
            sys.executable, str(repository / "scripts/launch.py"), "stages=[sample,label,build,train,evaluate]",
            "cluster=interactive", "experiment=sft_mini_1x2", "run.name=own", f"base_results_dir={tmp_path}",
            f"python={sys.executable}", f"sample.prompts={tmp_path}/heldout.jsonl", "preflight=false",
            f"generate.prompts={tmp_path}/heldout.jsonl", f"train.model.hf_path={model}", "train.model.max_length=256",
            "sample.num_samples=2", "sample.max_new_tokens=6", "generate.max_new_tokens=6", "train.trainer.devices=1",
            "train.trainer.max_steps=2", "train.trainer.enable_progress_bar=false",
            "train.model.tensor_model_parallel_size=1", "train.model.sequence_parallel=false",
            "train.model.micro_batch_size=2", "train.model.global_batch_size=2", *asked,
        ]  # fmt: skip
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "own/evaluation/results.json").read_text())
    assert results["methods"]["sft"]["measurements"]["score"]["n"] == len(prompts)
    assert (tmp_path / "own/evaluation/report.html").is_file()
