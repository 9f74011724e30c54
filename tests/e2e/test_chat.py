"""`scripts/chat.py` over a pipe, on one rank and on two: the answers of `scripts/generate.py`, whatever was said before."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.decoding_model import make_folder, make_prompts
from tests.distributed import REPOSITORY, free_port

pytestmark = pytest.mark.e2e

WORDS = ("checkpoint=model", "template=vicuna_v1", "template.system=", "max_new_tokens=9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    make_folder(folder / "model")
    make_prompts(folder, 1)
    return folder


def ended(folder: Path, script: str, *words: str, lines: str = "", ranks: int = 1) -> str:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(free_port())]
    command = [
        sys.executable,
        *(launcher if ranks > 1 else []),
        str(REPOSITORY / f"scripts/{script}.py"),
        *WORDS,
        *words,
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=lines, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(shown: str) -> list[str]:
    return [
        line for line, after in zip(shown.splitlines(), shown.splitlines()[1:], strict=False) if after.startswith("[")
    ]


def test_lines_are_answered_as_generate_answers_them(folder: Path) -> None:
    lines = "w1 w2 w3\n/nothing\n/new\n/image 0.png\nw4\n/again\n/verbosity 0\n/quit\nw9\n"
    shown = ended(folder, "chat", lines=lines)
    first, seen, again = answers(shown)
    assert "/nothing is unknown" in shown and "/verbosity is unknown" in shown
    assert again == seen
    assert ended(folder, "generate", "question=w1 w2 w3").splitlines()[-1] == first
    assert ended(folder, "generate", "question=w4", "image=0.png").splitlines()[-1] == seen
    two = ended(folder, "chat", "tensor_model_parallel_size=2", lines=lines, ranks=2)
    assert answers(two) == [first, seen, again]
    assert re.search(r"^\[\d+ tokens in [\d.]+ s", two, re.MULTILINE)
