"""Answers for an evaluation that is given models: ``scripts/generate.py`` once for each, in a process of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import SCRIPTS
from nemo_mm_align.evaluation.results import UNASKED, variant_of
from nemo_mm_align.evaluation.task_settings import config_folders
from nemo_mm_align.workflow.overrides import override_value, overrides_of

log = logging.getLogger(__name__)

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def generate_for(
    checkpoints: Mapping[str, Path],
    tasks: Mapping[str, Any],
    out: Path,
    overrides: Sequence[str] = (),
    processes: int = 1,
) -> dict[str, Path]:
    """Answer the prompts of all tasks with every model that has not answered them yet.

    Args:
        checkpoints: by the name of the method, what is to be asked.
        tasks: as `task_sections` takes them.
        out: gets a folder per method: ``<out>/<method>/<task>.jsonl`` with ``<task>.prompts.jsonl`` beside it; of a model that
            can be asked for attributes also ``<out>/<method>_unasked`` for what it answers without being asked.
        overrides: further settings of ``conf/generate.yaml``: ``max_batch_tokens=8192``, ``tensor_model_parallel_size=2``.
        processes: ranks of each model on this machine, by torchrun.

    Returns:
        The folder of each method, in the order of `checkpoints`, ``_unasked`` behind its method.

    Raises:
        UserError: a name that no method may have, or a model that could not answer; its own message stands on stderr.
        SystemExit: asked to stop (SIGTERM, SIGUSR1, Ctrl-C), once the model at work has ended well; the same call goes on.
    """
    for name in checkpoints:
        if variant_of(name)[1] or Path(name).name != name:
            raise UserError(f"checkpoints.{name}: the method's folder is called so, and what is unasked has {UNASKED}.")
    found: dict[str, Path] = {}
    for place, (name, checkpoint) in enumerate(checkpoints.items(), start=1):
        log.info("answers of %s, %d of %d: %s", name, place, len(checkpoints), checkpoint)
        words = overrides_of({"checkpoint": str(checkpoint), "out": str(out / name)})
        _run(name, [*_program(processes), *words, f"tasks={override_value(tasks)}", *overrides])
        found[name] = out / name
        unasked = out / f"{name}{UNASKED}"
        if any((unasked / f"{task}.jsonl").is_file() for task in tasks):
            found[f"{name}{UNASKED}"] = unasked
    return found


def _program(processes: int) -> list[str]:
    """The script, under torchrun where there are several ranks, with the user's own folders of configurations."""
    ranks = ["-m", "nemo_mm_align.launch.torchrun", "--standalone", "--nproc-per-node", str(processes)]
    own = [word for folder in config_folders()[:-1] for word in ("--config-dir", str(folder))]
    return [sys.executable, *(ranks if processes > 1 else []), str(SCRIPTS / "generate.py"), *own]


def _run(name: str, command: Sequence[str]) -> None:
    with _passing_on() as (started, asked):
        # A session of its own: Ctrl-C at a terminal reaches this process alone, which then asks the model once.
        process = subprocess.Popen(command, start_new_session=True)
        started.append(process)
        if asked:
            process.terminate()
        code = process.wait()
    if asked:
        log.warning("asked to stop: what has been answered is kept; the same command goes on")
        raise SystemExit(128 + asked[0])
    if code:
        raise UserError(
            f"checkpoints.{name}: its answers could not be generated (exit code {code}); the reason stands above."
        )


@contextmanager
def _passing_on() -> Iterator[tuple[list[subprocess.Popen[bytes]], list[int]]]:
    """Hand a request to stop to what has been started; yield what that is, and the requests."""
    started: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for process in started:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)

    previous = {number: signal.signal(number, stop) for number in _STOPPING}
    try:
        yield started, asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
