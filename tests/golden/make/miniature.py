"""Make ``miniature.json.gz``: ``results.json`` of a small miniature.

    python -m tests.golden.make.miniature CHECKOUT OUT

It is made again with other instruction sets, and must be the same up to the bounds: no answer hangs on a CPU's rounding.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

from tests.golden.make import old
from tests.golden.miniature import changes, words


def main(checkout: Path, out: Path) -> None:
    """Run it with what the CPU has, write the file, and run it with each other instruction set."""
    work = out / "work/miniature"
    found = []
    for variant in (None, *old.INSTRUCTIONS):
        shutil.rmtree(work, ignore_errors=True)
        old.instruct(variant)
        old.run(checkout, "miniature.py", words(work))
        text = (work / "results.json").read_text(encoding="utf-8")
        found.append(json.loads(text))
        if variant is None:
            (out / "miniature.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        differing = changes(found[0], found[-1])
        print(f"{variant or 'as it is'}: {differing or 'the same'}", flush=True)
        assert not differing, f"results hang on rounding, with {variant}"


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:3]))
