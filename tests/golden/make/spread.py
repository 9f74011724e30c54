"""How far apart the numbers of `losses.json` lie between CPUs: the same runs with other instruction sets.

    python -m tests.golden.make.spread CHECKOUT OUT

What torch, MKL and oneDNN choose by the kind of CPU is chosen by variables of the environment instead. Prints the largest
relative difference to ``OUT/losses.json``, per variant and number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.golden.make import old
from tests.golden.make.training import make_losses
from tests.golden.runs import worst


def main(checkout: Path, out: Path) -> None:
    """Run all variants."""
    expected = json.loads((out / "losses.json").read_text(encoding="utf-8"))
    for variant in old.INSTRUCTIONS:
        old.instruct(variant)
        for name, difference in worst(make_losses(checkout, out), expected).items():
            print(f"{old.COMMIT} {variant}: {name} {difference:.1e}", flush=True)


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:3]))
