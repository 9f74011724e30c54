"""Make ``answers``: whole files of answers, and beside them the same ones of runs that were killed on the way.

    python -m tests.golden.make.answers CHECKOUT OUT

Every file is made again with other instruction sets and in float64, and must be the same: no answer hangs on a rounding.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.golden.answers import DECODING, words
from tests.golden.make import old

ATTEMPTS = 20
"""At killing a run within its work."""


def lines(path: Path) -> int:
    """Whole lines of a file; 0 where there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(checkout: Path, out: Path, name: str, total: int) -> None:
    """Leave ``half_NAME.jsonl`` as a run leaves it that is killed after some answers and before the last."""
    path = out / f"answers/half_{name}.jsonl"
    for _ in range(ATTEMPTS):
        for file in path.parent.glob(f"{path.stem}.*"):
            file.unlink()
        command = old.command(checkout, "generate.py", words(name, "model", "data", f"answers/{path.name}"))
        process = subprocess.Popen(
            command, cwd=out, env=old.environment(checkout), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and lines(path) < total // 3:
            time.sleep(0.002)
        process.kill()
        process.wait()
        if 0 < lines(path) < total - 2:
            return
    raise SystemExit(f"{name}: {ATTEMPTS} runs were over before they could be killed")


def main(checkout: Path, out: Path) -> None:
    """Write all files."""
    (out / "answers").mkdir()
    for name in DECODING:
        old.run(checkout, "generate.py", words(name, "model", "data", f"answers/{name}.jsonl"), folder=out)
        (out / f"answers/{name}.layout.json").unlink()
        for number, variant in enumerate([*old.INSTRUCTIONS, None]):
            old.instruct(variant)
            again = out / f"work/{name}_{number}.jsonl"
            old.run(checkout, "generate.py", words(name, "model", "data", again), folder=out, exact=variant is None)
            assert again.read_bytes() == (out / f"answers/{name}.jsonl").read_bytes(), f"{name}: {variant or 'float64'}"
        killed(checkout, out, name, lines(again))


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:3]))
