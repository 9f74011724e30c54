"""Stands in for Python: asks the fork server beside it to run its words, or becomes Python itself where a fork would differ.

Started by a line ``#!PYTHON -IS`` that `tests/forking.py` puts before it, beside what it has to know of the server.
"""

import array
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys

with open(os.path.join(os.path.dirname(sys.argv[0]), "known.json")) as file:
    KNOWN = json.load(file)
PYTHON = KNOWN["PYTHON"]
words = sys.argv[1:]
environment = dict(os.environ)


def state_of_imports(values):
    """What modules may look at while they are imported; torchrun's own variables say nothing to them."""
    names = [name for name in values if name.startswith(tuple(KNOWN["FOREIGN"])) and name not in KNOWN["PASSED"]]
    return {name: values[name] for name in names if not name.startswith("TORCHELASTIC_")}


def same_start():
    """Whether a fork is what Python would be: a file or a known module, the same variables at import, three streams."""
    target = words[1:] if words[:1] == ["-u"] else words
    is_module = target[:1] == ["-m"] and target[1:] and target[1].startswith(tuple(KNOWN["SERVED"]))
    known = target[:1] and (target[0].endswith(".py") or is_module)
    path = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    others = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
    inherited = [number for number in others if is_open(number) and os.get_inheritable(number)]
    return (
        known
        and not inherited
        and all(entry in KNOWN["PATHS"] or hides_nothing(entry) for entry in path)
        and state_of_imports(environment) == state_of_imports(KNOWN["SERVER"])
        and all(map(is_open, range(3)))
    )


def hides_nothing(folder):
    """Whether a folder of PYTHONPATH has no module that Python or the server has imported: what else it has, a fork finds."""
    with open(os.path.join(os.path.dirname(sys.argv[0]), "imported.json")) as file:
        imported = {*json.load(file), "sitecustomize", "usercustomize"}
    return os.path.isdir(folder) and not imported & {name.partition(".")[0] for name in os.listdir(folder)}


def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def ask(connection):
    """Send the request and the streams."""
    limits = [getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")]
    umask = os.umask(0)
    os.umask(umask)
    request = {
        "words": words,
        "environment": environment,
        "folder": os.getcwd(),
        "parent": os.getppid(),
        "umask": umask,
        "limits": [resource.getrlimit(limit) for limit in limits],
        "ignored": [number for number in FORWARDED if signal.getsignal(number) == signal.SIG_IGN],
        "python": sys.argv[0],
        "path": [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry],
    }
    text = json.dumps(request).encode()
    streams = array.array("i", [0, 1, 2])
    connection.sendmsg([len(text).to_bytes(8, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    connection.sendall(text)


def answer(replies, name, errors=2):
    """Return what the server says next."""
    try:
        return json.loads(replies.readline())[name]
    except (OSError, ValueError):
        lost(errors)


def lost(errors=2):
    """End where the server has: its forks end with it, and whoever started this command learns why from stderr."""
    os.write(errors, f"the fork server has ended while this command ran (tests/fork_server.py): {words}\n".encode())
    os._exit(os.EX_SOFTWARE)


FORWARDED = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]


def main():
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(KNOWN["SOCKET"])
    except OSError:
        os.execv(PYTHON, [PYTHON, *words])
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" in environment:  # ranks end with torchrun, also where that is killed
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it was, meanwhile
    try:
        ask(connection)
    except OSError:
        lost()
    replies = connection.makefile("rb", buffering=0)  # what has been read ahead is not there for `select`
    pid = answer(replies, "pid")
    errors = os.dup(2)
    for number in range(3):  # whoever reads them waits for their end
        os.close(number)

    woken, waker = os.pipe()
    for end in (woken, waker):
        os.set_blocking(end, False)
    # a handler of Python's would run after the next reply alone, had its signal come just before the wait for that
    signal.set_wakeup_fd(waker)
    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    while connection not in (ready := select.select([connection, woken], [], [])[0]):
        for number in os.read(woken, 4096) if woken in ready else b"":
            with contextlib.suppress(ProcessLookupError):  # it has just ended: the next reply says how
                os.kill(pid, number)
    status = answer(replies, "status", errors)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


if same_start():
    main()
os.execv(PYTHON, [PYTHON, *words])
