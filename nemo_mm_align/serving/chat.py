"""The command `chat`: a model in the terminal of the first rank, which the other ranks follow."""

from __future__ import annotations

import logging
import sys
import threading

import torch

from nemo_mm_align.inference.engine import Engine
from nemo_mm_align.inference.led_session import LedSession
from nemo_mm_align.parallel import runtime
from nemo_mm_align.serving.chat_settings import ChatSettings
from nemo_mm_align.serving.offered import decoding_session, open_offered, served_model
from nemo_mm_align.serving.terminal import Terminal

logger = logging.getLogger(__name__)

_WAITING = 64
"""Requests that may wait: those of a sweep are asked one after the other."""


def chat(settings: ChatSettings) -> None:
    """Talk to the model until the lines end; every rank calls this.

    Raises:
        UserError: bad input, found before weights are loaded.
    """
    opened = open_offered(settings)
    runtime.initialize(opened.parallel, settings.sampling.seed)
    session = LedSession(decoding_session(settings, opened))
    if session.leads:
        engine = Engine(session, _WAITING)
        terminal = Terminal(served_model(settings, opened, engine), engine, _read, _write)
        _talk(terminal, engine)
    else:
        with session:
            session.follow()
    runtime.shutdown()


def _talk(terminal: Terminal, engine: Engine) -> None:
    """The terminal has the main thread, which Ctrl-C reaches; decoding has one of its own."""
    thread = threading.Thread(target=_run, args=(engine,), name="engine", daemon=True)
    thread.start()
    try:
        terminal.run()
    finally:
        engine.end()
        thread.join()


def _run(engine: Engine) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(runtime.device())  # which is a thread's own
    try:
        engine.run()
    except Exception:
        logger.critical("the engine has failed", exc_info=True)


def _read(prompt: str) -> str:
    """A line of the terminal, with its history; of a file or a pipe without a prompt."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line
    import readline  # noqa: F401  input() edits lines by it

    return input(prompt)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
