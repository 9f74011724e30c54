"""Memory of labelling under a hard limit of the system: a reply that unpacks to gigabytes costs megabytes."""

import os
import subprocess
import sys
import zlib
from pathlib import Path
from socket import socket

import pytest

from tests.hostile_server import Behaviour, head, hostile_server
from tests.judge_server import make_files
from tests.waiting import PATIENCE_S

ROOM_MB = 320
WORK = """
import os, resource, sys
from pathlib import Path
os.environ.update(GEMINI_API_KEY="memory-key-0123456789", OPENAI_API_KEY="memory-key-0123456789")
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.labeling import stage
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.llm.clients.google_genai import GoogleGenai
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge

folder, room, address = Path(sys.argv[1]), int(sys.argv[2]) << 20, sys.argv[3]
schema = AttributeSchema(name="s", attributes=(Attribute(name="quality"),), score=("quality",))
now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
resource.setrlimit(resource.RLIMIT_AS, (now + room, now + room))
judges = (
    RubricJudge(Gemini("m", api_endpoint=address)),
    RubricJudge(GoogleGenai("m", api_endpoint=address)),
    RubricJudge(OpenAICompatible(f"{address}/v1", "m")),
)
for judge in judges:
    settings = {
        "prompts": folder / "prompts.jsonl",
        "candidates": folder / "candidates.jsonl",
        "out": folder / f"out-{type(judge.client).__name__}.jsonl",
        "attribute_schema": schema,
        "allow_failures": True,
        "runner": {"concurrency": 2, "max_attempts": 1},
    }
    summary = stage.label(stage.LabelSettings.model_validate(settings), judge)
    print(sum(summary.tally.failures.values()), end=" ")
"""


def packed() -> Behaviour:
    """2 GiB in a few megabytes."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    pieces = [packer.compress(b'{"a": "'), *(packer.compress(b" " * (1 << 20)) for _ in range(2048)), packer.flush()]
    bomb = b"".join(pieces)
    assert len(bomb) < 16 << 20
    return lambda connection: connection.sendall(head(Content_Encoding="gzip", Content_Length=str(len(bomb))) + bomb)


def endless(connection: socket) -> None:
    """2 GiB in pieces that come as long as they are taken."""
    connection.sendall(head(Transfer_Encoding="chunked"))
    for _ in range(2048):
        connection.sendall(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")


def braces(connection: socket) -> None:
    """A reply within the limit that a parser could take for ever deeper objects."""
    text = b'{"candidates": [{"content": {"parts": [{"text": "' + b"{" * 3_900_000 + b'"}]}}]}'
    connection.sendall(head(Content_Type="application/json", Content_Length=str(len(text))) + text)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["packed", "endless", "braces"])
def test_no_reply_takes_the_memory_of_a_machine(kind: str, tmp_path: Path, repository: Path) -> None:
    """Two calls at once, in an address space of little more than the imports; the server has memory of its own."""
    make_files(tmp_path, 2)
    behaviour = {"packed": packed, "endless": lambda: endless, "braces": lambda: braces}[kind]()
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # else each thread reserves address space that it never uses
    with hostile_server(behaviour) as server:
        command = [sys.executable, "-c", WORK, str(tmp_path), str(ROOM_MB), server.address]
        done = subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["2"] * 3, done.stderr[-2000:]
    assert all(path.stat().st_size < 60_000 for path in tmp_path.glob("*.ledger.jsonl"))
    assert "timeout" not in "".join(path.read_text() for path in tmp_path.glob("*.ledger.jsonl"))
