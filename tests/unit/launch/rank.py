"""Run by test_torchrun.py: rank 1 ends as it is told, the others wait for their end."""

import os
import signal
import sys
import time
from pathlib import Path

from nemo_mm_align.cli.entry_point import user_errors
from nemo_mm_align.core.errors import UserError


@user_errors
def main(how: str, folder: Path) -> None:
    if how == "leaves":
        signal.signal(signal.SIGTERM, lambda *unused: sys.exit(0))
    (folder / os.environ["RANK"]).touch()
    if os.environ["RANK"] == "1":
        if how == "mistake":
            raise UserError("answers.jsonl:3: no such prompt.")
        if how == "crash":
            sys.exit(86)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    if how != "well":
        time.sleep(300)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
