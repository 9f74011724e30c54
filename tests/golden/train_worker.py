"""One rank that runs `scripts/train.py` several times over, which spares the imports of all but the first.

    torchrun --nproc-per-node 2 tests/golden/train_worker.py RUNS.json     a list of [port, list of words]

Every run meets at a port of its own: what an earlier one left in torchrun's store would mislead the next.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/train.py"


def main(runs: Path) -> None:
    """Run the script once per list of words."""
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    for port, words in json.loads(runs.read_text(encoding="utf-8")):
        os.environ["MASTER_PORT"] = str(port)
        sys.argv = [str(SCRIPT), *words]
        runpy.run_path(str(SCRIPT), run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
