"""Make ``settings.json.gz``: what every shipped configuration of a checkout says.

python -m tests.golden.make.settings CHECKOUT OUT
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

from tests.golden.make import old

DUMP = Path(__file__).resolve().parents[1] / "settings_dump.py"


def main(checkout: Path, out: Path) -> None:
    """Write the file; the same settings give the same bytes."""
    command = [sys.executable, str(DUMP), str(checkout / "conf")]
    text = subprocess.run(command, env=old.environment(checkout), stdout=subprocess.PIPE, check=True).stdout
    (out / "settings.json.gz").write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:3]))
