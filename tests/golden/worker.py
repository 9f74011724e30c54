"""One process that runs entry points one after the other, which spares the imports of all but the first.

    torchrun --nproc-per-node 2 tests/golden/worker.py CALLS.json     a list of [port, script, list of words]

Every call meets at a port of its own: what an earlier one left in torchrun's store would mislead the next.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def run_scripts(folder: Path, calls: Sequence[tuple[str, list[str]]], ranks: int = 1) -> str:
    """Run scripts with their words, in one process or in several; return what all of them said.

    Args:
        folder: of one's own, for the list of calls.

    Raises:
        AssertionError: one of them failed.
    """
    from tests.distributed import REPOSITORY, free_port, run_distributed
    from tests.waiting import PATIENCE_S

    path = folder / "calls.json"
    path.write_text(json.dumps([[free_port(), script, words] for script, words in calls]), encoding="utf-8")
    if ranks > 1:
        return run_distributed(Path(__file__), ranks, path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, __file__, str(path)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def main(calls: Path) -> None:
    """Run them all; an exit code other than 0 ends the process with it."""
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    for port, script, words in json.loads(calls.read_text(encoding="utf-8")):
        os.environ["MASTER_PORT"] = str(port)
        sys.argv = [str(SCRIPTS / script), *words]
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
