"""Tasks with prompts and a judge of their own, from models to the report: `scripts/evaluate.py` alone, and at a chain's end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.schema.records import CandidateSet, Prompt, Turn, read_records, write_records
from tests.judge_server import judge_server
from tests.tiny import tiny_llava
from tests.waiting import PATIENCE_S, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

GRADES = 10
TASKS = "{turns: {_target_: tests.own_task.OwnTask}}"


class Grading(BaseHTTPRequestHandler):
    """OpenAI's protocol: the grade of a text is its number of letters, modulo 10."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = asked["messages"][-1]["content"]
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        message = {"role": "assistant", "content": str(grade(text.removeprefix("Grade this: ")))}
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        reply = {"id": "r", "object": "chat.completion", "created": 0, "model": "grader-1", "usage": usage}
        body = json.dumps({**reply, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def grade(text: str) -> int:
    return sum(map(str.isalpha, text)) % GRADES


@pytest.fixture
def grader() -> Iterator[str]:
    """Address of the judge."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Grading)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def judge(address: str) -> list[str]:
    return [f"judge.base_url={address}", "judge.model=grader", "judge.api_key_variable=null"]


def environment(repository: Path) -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{repository}:{os.environ.get('PYTHONPATH', '')}"}


def check_grades(judged: Path) -> None:
    """Every answer of a method has the grade of its last turn."""
    scored = list(read_records(judged, ScoredAnswer))
    assert [one.prompt_id for one in scored] == ["own/0", "own/1", "own/2"]
    for one in scored:
        assert one.values["grade"] == grade((one.answer, *one.follow_up_answers)[-1])
        assert one.values["turns"] == (1 if one.prompt_id == "own/1" else 2)


def test_models_answer_and_are_compared_in_one_command(repository: Path, tmp_path: Path, grader: str) -> None:
    models = {name: tiny_llava(tmp_path / name, seed) for seed, name in enumerate(("base", "other"))}
    checkpoints = ", ".join(f"{name}: {folder}" for name, folder in models.items())
    command = [
        sys.executable, str(repository / "scripts/evaluate.py"), f"tasks={TASKS}", f"checkpoints={{{checkpoints}}}",
        "judge=openai_compatible", *judge(grader), "out=out", "generate={template: vicuna_v1}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=environment(repository), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in models:
        (judged,) = (tmp_path / "out/judged").rglob(f"{name}.jsonl")
        check_grades(judged)
        answers = list(read_records(tmp_path / f"out.answers/{name}/turns.jsonl", CandidateSet))
        assert [len(one.candidates[0].follow_up_answers) for one in answers] == [1, 0, 1]
    assert (tmp_path / "out/report.html").is_file()


def test_asked_to_stop_the_model_at_work_ends_well(repository: Path, tmp_path: Path, grader: str) -> None:
    """The same command goes on with what has been answered."""
    model = tiny_llava(tmp_path / "model")
    command = [
        sys.executable, str(repository / "scripts/evaluate.py"), f"checkpoints={{base: {model}}}",
        "tasks={turns: {_target_: tests.own_task.OwnTask, tokens: 200}}",
        "judge=openai_compatible", *judge(grader), "out=out", "generate={template: vicuna_v1, max_batch_tokens: 300}",
    ]  # fmt: skip
    answers = tmp_path / "out.answers/base/turns.jsonl"
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(repository), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: answers.is_file() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in errors, errors[-3000:]
    assert not (tmp_path / "out").exists()
    before = answers.read_bytes()
    done = subprocess.run(command, cwd=tmp_path, env=environment(repository), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(before.splitlines()) <= set(answers.read_bytes().splitlines())


def test_a_chain_ends_in_the_report_of_its_tasks(repository: Path, tmp_path: Path, grader: str) -> None:
    """From prompts to a comparison of the model that training starts from with the trained one, on two ranks."""
    model = tiny_llava(tmp_path / "llava")
    prompts = [Prompt(id=f"p{n}", turns=(Turn(role="user", content=f"red {n} blue?"),)) for n in range(6)]
    write_records(tmp_path / "prompts.jsonl", prompts)
    with judge_server(allow_text=True) as server:
        words = {"label": f"{server.address}/v1", "evaluate": grader}
        asked = [
            word
            for stage, address in words.items()
            for word in (f"{stage}.judge=openai_compatible", f"{stage}.overrides={json.dumps(judge(address))}")
        ]
        command = [
            sys.executable, str(repository / "scripts/launch.py"), "stages=[sample,label,build,train,evaluate]",
            "cluster=interactive", "experiment=sft_mini_1x2", "run.name=own", f"base_results_dir={tmp_path}",
            f"python={sys.executable}", f"sample.prompts={tmp_path}/prompts.jsonl", "preflight=false",
            f"evaluate.tasks={TASKS}", f"train.model.hf_path={model}", "train.model.max_length=256",
            "sample.num_samples=2", "sample.max_new_tokens=6", "train.trainer.max_steps=2",
            "train.trainer.enable_progress_bar=false", "train.model.micro_batch_size=2",
            "train.model.global_batch_size=2", *asked,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, env=environment(repository), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("base", "sft"):
        (judged,) = (tmp_path / "own/evaluation/judged").rglob(f"{name}.jsonl")
        check_grades(judged)
        layout = json.loads((tmp_path / f"own/answers/{name}/turns.layout.json").read_text())
        assert layout["world_size"] == 2
    assert (tmp_path / "own/evaluation/report.html").is_file()
