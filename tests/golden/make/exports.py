"""Make ``exports.json``: digests of exported folders.

    python -m tests.golden.make.exports CHECKOUT OUT

OUT holds ``model`` and ``run`` (see `inputs` and `training`).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.golden.exports import EXPORTS, as_json, digests, words
from tests.golden.make import old


def main(checkout: Path, out: Path) -> None:
    """Export and write the file."""
    work, model = out / "work/exports", out / "model"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    found = {}
    for name in EXPORTS:
        for call in words(name, model, out / "run", work):
            old.run(checkout, "convert.py", call)
        found[name] = digests(work / name, model / "model.safetensors", model)
    (out / "exports.json").write_text(as_json(found), encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:3]))
