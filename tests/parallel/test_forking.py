"""A command that is forked does what Python does: `tests/forking.py`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forking import REAL_PYTHON
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.parallel

STATE = """
import json, os, signal, sys
json.dump([sys.argv, sys.path, os.getcwd(), os.environ["TOLD"], __name__, __file__, os.getppid(), os.umask(0),
           signal.getsignal(signal.SIGINT) is signal.default_int_handler, sys.stdin.read()], sys.stdout)
sys.stderr.write("to stderr")
sys.exit(int(sys.argv[1]))
"""
ENDS = """
import atexit, os, signal, sys
atexit.register(lambda: print("at exit"))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(os.getpid(), flush=True)
signal.pause()
"""


def run(python: str, script: Path, code: str) -> tuple[int, str, str]:
    command = [python, str(script), code, "x"]
    environment = {**os.environ, "TOLD": "a\udcff"}
    done = subprocess.run(command, input="typed", capture_output=True, text=True, cwd=script.parent, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("code", ["0", "3"])
def test_words_environment_streams_and_exit_code(code: str, tmp_path: Path) -> None:
    (tmp_path / "state.py").write_text(STATE)
    assert sys.executable != REAL_PYTHON or Path("/dev/nvidiactl").exists()
    found = run(sys.executable, tmp_path / "state.py", code)
    assert found == run(REAL_PYTHON, tmp_path / "state.py", code)
    assert found[0] == int(code) and found[2] == "to stderr" and '"typed"' in found[1]


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, 7), (signal.SIGKILL, -signal.SIGKILL)])
def test_signals_reach_the_fork_and_their_end_is_told(number: int, ends: int, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(ENDS)
    for python in (REAL_PYTHON, sys.executable):
        process = subprocess.Popen([python, str(tmp_path / "ends.py")], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        fork = int(process.stdout.readline())
        process.send_signal(number)
        rest = process.communicate(timeout=PATIENCE_S)[0]
        assert (process.returncode, rest) == (ends, "at exit\n" if ends > 0 else "")
        wait_until(lambda fork=fork: not Path(f"/proc/{fork}").exists())


def test_what_imports_look_at_keeps_python_itself(tmp_path: Path) -> None:
    (tmp_path / "loaded.py").write_text("import sys; print('torch' in sys.modules, sys.executable)")
    for environment, loaded in (({}, True), ({"TORCH_LOGS": "+dynamo"}, False), ({"PYTHONPATH": str(tmp_path)}, False)):
        command, variables = [sys.executable, str(tmp_path / "loaded.py")], {**os.environ, **environment}
        said = subprocess.run(command, capture_output=True, text=True, env=variables, check=True).stdout.split()
        assert said == [str(loaded), sys.executable if loaded else REAL_PYTHON]
