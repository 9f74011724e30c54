"""Memory of labelling under a hard limit of the system: a reply that unpacks to gigabytes costs megabytes."""

import subprocess
import sys
from pathlib import Path

from tests.judge_server import make_files

ROOM_MB = 320
WORK = """
import gzip, os, resource, sys, zlib
from pathlib import Path
os.environ.update(GEMINI_API_KEY="memory-key-0123456789", OPENAI_API_KEY="memory-key-0123456789")
from nemo_mm_align.labeling import stage
from nemo_mm_align.labeling.judges.gemini import GeminiJudge
from nemo_mm_align.labeling.judges.google_genai import GoogleGenaiJudge
from nemo_mm_align.labeling.judges.openai_compatible import OpenAICompatibleJudge
from nemo_mm_align.attributes import Attribute, AttributeSchema
from tests.hostile_server import head, hostile_server

folder, room = Path(sys.argv[1]), int(sys.argv[2]) << 20
packer = zlib.compressobj(1, zlib.DEFLATED, 31)
bomb = b"".join([packer.compress(b'{"a": "'), *(packer.compress(b" " * (1 << 20)) for _ in range(2048)), packer.flush()])
assert len(bomb) < 16 << 20
schema = AttributeSchema(name="s", attributes=(Attribute(name="quality"),), score=("quality",))

def packed(connection):
    connection.sendall(head(Content_Encoding="gzip", Content_Length=str(len(bomb))) + bomb)

def endless(connection):
    connection.sendall(head(Transfer_Encoding="chunked"))
    piece = b"100000" + bytes([13, 10]) + b" " * (1 << 20) + bytes([13, 10])
    for _ in range(2048):
        connection.sendall(piece)

def long(connection):
    text = b'{"candidates": [{"content": {"parts": [{"text": "' + b"{" * 3_900_000 + b'"}]}}]}'
    connection.sendall(head(Content_Type="application/json", Content_Length=str(len(text))) + text)

now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
resource.setrlimit(resource.RLIMIT_AS, (now + room, now + room))
for number, behaviour in enumerate((packed, endless, long)):
    with hostile_server(behaviour) as server:
        judges = (
            GeminiJudge("m", api_endpoint=server.address),
            GoogleGenaiJudge("m", api_endpoint=server.address),
            OpenAICompatibleJudge(f"{server.address}/v1", "m"),
        )
        for judge in judges:
            settings = {
                "prompts": folder / "prompts.jsonl",
                "candidates": folder / "candidates.jsonl",
                "out": folder / f"out-{number}-{type(judge).__name__}.jsonl",
                "attribute_schema": schema,
                "allow_failures": True,
                "runner": {"concurrency": 2, "max_attempts": 1},
            }
            summary = stage.label(stage.LabelSettings.model_validate(settings), judge)
            print(sum(summary.tally.failures.values()), end=" ")
"""


def test_no_reply_takes_the_memory_of_a_machine(tmp_path: Path, repository: Path) -> None:
    """Two calls at once, each of 2 GiB in packed and unpacked form, in an address space of little more than the imports."""
    make_files(tmp_path, 2)
    command = [sys.executable, "-c", WORK, str(tmp_path), str(ROOM_MB)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["2"] * 9
    assert all(path.stat().st_size < 60_000 for path in tmp_path.glob("*.ledger.jsonl"))
