"""Verify the project on the GPUs that are visible here; ``containers/verify.sh --help`` explains the options."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.verify import options
from nemo_mm_align.verify.redact import redact
from nemo_mm_align.verify.run import run

_MISTAKE, _INTERRUPTED = 2, 130


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Once: a terminal and a shell may both hand Ctrl-C on, and the report is being written then."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run the steps; 0: all that were run passed, 1: one did not, 2: a mistake in the options, 130: interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # a shell that starts something in the background has it ignored
    words = sys.argv[1:]
    try:
        chosen = options.from_words(words)
        report = run(chosen, " ".join(["python -m nemo_mm_align.verify", *words]))
    except UserError as error:  # not `cli.user_errors`, which needs packages that may be what is broken
        sys.stderr.write(f"error: {error}\n")
        return _MISTAKE
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the report holds what was done\n")
        return _INTERRUPTED
    sys.stdout.write(redact(report.markdown()))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
