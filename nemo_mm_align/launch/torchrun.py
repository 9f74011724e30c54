"""torchrun with an exit code that says what happened, for job scripts: ``python -m nemo_mm_align.launch.torchrun ...``.

torch's own ends with 1 whether a setting is wrong, a rank has crashed, or somebody has asked the job to leave and all ranks
did so well; and it puts lines of its own below the message of a mistake. Here the last line is the rank's or ours. Options
and environment variables are torchrun's.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from nemo_mm_align.cli.entry_point import EXIT_CODE

_SIGNALLED = 128

_ROUTINE = ("Sending process", "failed (exitcode:", "Received ")
"""How torchrun's lines begin that say again what an exit code says."""
_LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api")


class _Agent(LocalElasticAgent):
    """Remembers how its ranks have ended."""

    ends: list[int | None] = []

    def _shutdown(self, *arguments: Any, **named: Any) -> None:
        super()._shutdown(*arguments, **named)
        handlers = getattr(self._pcontext, "subprocess_handlers", {})
        _Agent.ends = [handler.proc.poll() for handler in handlers.values()]


def main(words: Sequence[str] | None = None) -> int:
    """Run torchrun on `words` (default: the command line) and return its exit code.

    0: all ranks ended well, by themselves or because this process was asked to leave; 2: a rank met a mistake in the settings
    and has said so; above 128: this process or the first rank to fail was ended by that signal; else the exit code of the
    first rank to fail.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_news)
    _use_own_agent()
    try:
        run(parse_args(words))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = exit_code(failure.exitcode, (failure.exitcode for failure in error.failures.values()))
        if code != EXIT_CODE:
            sys.stderr.write(f"{error}\nerror: {_describe(rank, failure.exitcode)}\n")
        return code
    except SignalException as error:
        return _leave(error.sigval, _Agent.ends)
    return 0


def _use_own_agent() -> None:
    from torch.distributed.launcher import api

    api.LocalElasticAgent = _Agent  # type: ignore[misc]


def _leave(number: int, ends: Sequence[int | None]) -> int:
    """Return the exit code after a request to leave, and say how the ranks have met it."""
    name = signal.Signals(number).name
    if ends and all(code == 0 for code in ends):
        sys.stderr.write(f"asked to leave by {name}: all ranks of this node have ended well\n")
        return 0
    sys.stderr.write(f"asked to leave by {name}: ranks of this node ended with exit codes {list(ends)}\n")
    return _SIGNALLED + int(number)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_ROUTINE)


def _describe(rank: int, code: int) -> str:
    how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
    return f"rank {rank} ended first, with {how}; what it said stands above torchrun's block"


def exit_code(first: int, codes: Iterable[int]) -> int:
    """Return the exit code of a node.

    Args:
        first: of the rank that failed first; negative: the signal that ended it.
        codes: of all ranks that failed by themselves.
    """
    if EXIT_CODE in codes:
        return EXIT_CODE
    return first if first > 0 else _SIGNALLED - first


if __name__ == "__main__":
    sys.exit(main())
