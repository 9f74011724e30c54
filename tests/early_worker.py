"""Run by test_early_errors.py: starts commands with several command lines, in processes that cannot import the slow packages.

python early_worker.py FOLDER < {SCRIPT: [[word, ...], ...], ...} prints {SCRIPT: [[exit code, output], ...], ...} as JSON.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

SLOW = (
    "torch",
    "megatron",
    "nemo",
    "lightning",
    "transformers",
    "datasets",
    "google",
    "openai",
    "pandas",
    "sklearn",
    "matplotlib",
    "scipy.special",
    "scipy.stats._stats_py",
)  # scipy.stats itself is imported late: what it consists of is not found


class Absent:
    """Raises where one of the slow packages is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if f"{name}.".startswith(tuple(f"{slow}." for slow in SLOW)):
            raise AssertionError(f"{name} was imported")


def start(script: str, words: list[str], log: Path) -> int:
    """Run the command in a forked process, which spares starting Python anew; return its exit code."""
    child = os.fork()
    if child == 0:
        code: Any = 70
        try:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.argv = [script, *words]
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcomes_of(command: str, lines: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    """Start a command with each line; none sees what another command imports, since each has a forked process of its own."""
    found = folder / "outcomes"
    child = os.fork()
    if child == 0:
        sys.argv = [command]
        runpy.run_path(command, run_name="preloaded")
        found.write_text(
            json.dumps([(start(command, words, folder / "log"), (folder / "log").read_text()) for words in lines])
        )
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, command
    return json.loads(found.read_text())


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())  # type: ignore[arg-type]
    import nemo_mm_align.inference.early
    import nemo_mm_align.training.early  # noqa: F401  # what most of them need is imported once

    given = json.load(sys.stdin)
    sys.stdout.write(json.dumps({name: outcomes_of(name, lines, Path(sys.argv[1])) for name, lines in given.items()}))
