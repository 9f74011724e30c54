"""Make ``built``: training sets from the golden annotations, one per method.

    python -m tests.golden.make.building CHECKOUT OUT

OUT holds ``labels`` (see `labels`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.golden.building import METHODS, words
from tests.golden.make import old


def main(checkout: Path, out: Path) -> None:
    """Build all; the sets lie beside the annotations while they are made, so that images have the same names."""
    (out / "built").mkdir()
    for method in METHODS:
        old.run(checkout, "build.py", words(method, ".", "."), folder=out / "labels")
        for name in (f"{method}.jsonl", f"{method}.jsonl.summary.json"):
            (out / "labels" / name).rename(out / "built" / name)


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:3]))
