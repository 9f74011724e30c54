"""A command that is forked does what Python does: `tests/forking.py`."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forking import FOREIGN, PASSED, REAL_PYTHON, SHELL, as_in_the_shell, end_of, write_client
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
import atexit, os, signal, sys, time
atexit.register(lambda: print("at exit"))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(os.getpid(), flush=True)
while True:
    time.sleep(0.1)  # signal.pause would wait forever for a signal that came just before it
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
    """Lightning and megatron-core's models, which other tests of this process may have used, change some: not here."""
    importlib.import_module("lightning.pytorch")
    os.environ["NVTE_FLASH_ATTN"] = "1"
    as_in_the_shell()
    assert {name for name in os.environ if name.startswith(FOREIGN)} <= {*SHELL, *PASSED}
    (tmp_path / "loaded.py").write_text("import sys; print('torch' in sys.modules, sys.executable)")
    (tmp_path / "hiding").mkdir()
    (tmp_path / "hiding/yaml.py").touch()
    cases = {"TORCH_LOGS": "+dynamo"}, {"PYTHONPATH": str(tmp_path / "hiding")}
    for environment, loaded in (({}, True), ({"PYTHONPATH": str(tmp_path)}, True), *((case, False) for case in cases)):
        command, variables = [sys.executable, str(tmp_path / "loaded.py")], {**os.environ, **environment}
        said = subprocess.run(command, capture_output=True, text=True, env=variables, check=True).stdout.split()
        assert said == [str(loaded), sys.executable if loaded else REAL_PYTHON]


def is_forked(folder: Path) -> bool:
    (folder / "loaded.py").write_text("import sys; print('torch' in sys.modules)")
    return "True" in subprocess.check_output([sys.executable, str(folder / "loaded.py")], text=True)


def test_a_command_that_is_killed_as_it_begins_takes_nobody_along(tmp_path: Path) -> None:
    if sys.executable == REAL_PYTHON:
        return
    for words in (b"", b"\x09\0\0\0\0\0\0\0half"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(Path(sys.executable).with_name("socket")))
            connection.sendall(words)
    assert is_forked(tmp_path)


@pytest.fixture
def asked() -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """A command that has asked this test to be its server."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{name}/socket")
        listener.listen()
        command = [str(write_client(Path(name))), "-m", "tests.forking"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = listener.accept()
            with connection:
                yield process, connection


@pytest.mark.parametrize("reply", ["", '{"pid": 4194304}\n'])
def test_a_server_that_has_ended_is_named(asked: tuple[subprocess.Popen[str], socket.socket], reply: str) -> None:
    process, connection = asked
    connection.recv(8)
    connection.sendall(reply.encode())
    connection.shutdown(socket.SHUT_RDWR)
    said = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == os.EX_SOFTWARE and said.startswith("the fork server has ended while this command ran")
    with subprocess.Popen(["false"]) as ended, pytest.raises(RuntimeError, match="has ended with 1 while tests ran"):
        end_of(ended)


def signals(pid: int, which: str) -> int:
    """A set of signals of a process, as bits: what it catches (SigCgt), what waits for it (ShdPnd)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1], 16)


def test_a_signal_after_the_end_changes_no_exit_code(asked: tuple[subprocess.Popen[str], socket.socket]) -> None:
    process, connection = asked
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    connection.sendall(json.dumps({"pid": ended.pid}).encode() + b"\n")
    term = 1 << signal.SIGTERM - 1
    wait_until(lambda: signals(process.pid, "SigCgt") & term)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: not signals(process.pid, "ShdPnd") & term)
    connection.sendall(b'{"status": 768}\n')
    assert process.wait(timeout=PATIENCE_S) == 3
