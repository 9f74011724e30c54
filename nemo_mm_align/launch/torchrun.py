"""torchrun with an exit code that says what happened, for job scripts: ``python -m nemo_mm_align.launch.torchrun ...``.

torch's own ends with 1 whether a setting is wrong, a rank has crashed or somebody has asked the job to leave, and puts a
block of its own below the message of a mistake. Options and environment variables are torchrun's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from nemo_mm_align.cli import EXIT_CODE

_SIGNALLED = 128


def main(words: Sequence[str] | None = None) -> int:
    """Run torchrun on `words` (default: the command line) and return its exit code.

    0: all ranks ended well; 2: a rank met a mistake in the settings and has said so; above 128: this process or the first
    rank to fail was ended by that signal; else the exit code of the first rank to fail.
    """
    try:
        run(parse_args(words))
    except ChildFailedError as error:
        first = error.get_first_failure()[1].exitcode
        code = exit_code(first, (failure.exitcode for failure in error.failures.values()))
        if code != EXIT_CODE:
            sys.stderr.write(f"{error}\n")
        return code
    except SignalException as error:
        return _SIGNALLED + int(error.sigval)
    return 0


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
