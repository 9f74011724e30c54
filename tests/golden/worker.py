"""One process that runs entry points one after the other, which spares the imports of all but the first.

    torchrun --nproc-per-node 2 tests/golden/worker.py CALLS.json     a list of [port, script, list of words]

Every call meets at a port of its own: what an earlier one left in torchrun's store would mislead the next. Calls without
a port are the first rank's, which makes them as a single process once the others have ended.
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
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


Calls = Sequence[tuple[str | Path, list[str]]]
"""A script of `scripts` or a file elsewhere, and its words."""


def run_scripts(folder: Path, calls: Calls, ranks: int = 1, alone: Calls = ()) -> str:
    """Run scripts with their words, in one process or in several; return what all of them said.

    Args:
        folder: of one's own, for the list of calls.
        alone: what the first rank runs afterwards as if it had been started alone.

    Raises:
        AssertionError: one of them failed.
    """
    from tests.distributed import REPOSITORY, free_port, run_distributed
    from tests.waiting import PATIENCE_S

    path = folder / "calls.json"
    listed = [[free_port(), str(script), words] for script, words in calls]
    listed += [[None, str(script), words] for script, words in alone]
    path.write_text(json.dumps(listed), encoding="utf-8")
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


def forget_launcher() -> None:
    """Take away what tells this process that it is one of several."""
    for name in list(os.environ):
        if name.startswith(("TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_")) or name in PLACE:
            del os.environ[name]


def main(calls: Path) -> None:
    """Run them all; an exit code other than 0 ends the process with it."""
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    first = os.environ.get("RANK", "0") == "0"
    for port, script, words in json.loads(calls.read_text(encoding="utf-8")):
        if port is None and not first:
            return
        if port is None:
            forget_launcher()
        else:
            os.environ["MASTER_PORT"] = str(port)
        sys.argv = [str(SCRIPTS / script), *words]
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
