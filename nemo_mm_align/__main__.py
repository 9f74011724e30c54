"""``nemo-mm-align STAGE overrides...``, or ``python -m nemo_mm_align STAGE overrides...``: the scripts as one command.

On several ranks: ``torchrun --nproc-per-node 8 -m nemo_mm_align train ...``.
"""

from __future__ import annotations

import runpy
import sys

from nemo_mm_align import __version__
from nemo_mm_align.cli.entry_point import end
from nemo_mm_align.core.errors import suggestion
from nemo_mm_align.core.packages import describe_missing
from nemo_mm_align.core.repository import SCRIPTS

USAGE = """\
nemo-mm-align STAGE overrides...      one stage; its own settings: nemo-mm-align STAGE --help

{stages}"""


def stages() -> dict[str, str]:
    """Names of all stages, with the first line of what each says of itself."""
    found = {}
    for path in sorted(SCRIPTS.glob("*.py")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        found[path.stem] = first.strip('"').strip()
    return found


def main() -> None:
    """Run the stage that the first word names, with the others as its words."""
    known, words = stages(), sys.argv[1:]
    if not words or words[0] in ("--help", "-h"):
        width = max(map(len, known))
        table = "\n".join(f"  {name:{width}}  {says}" for name, says in known.items())
        sys.stdout.write(f"{USAGE.format(stages=table)}\n")
    elif words[0] == "--version":
        sys.stdout.write(f"{__version__}\n")
    elif words[0] not in known:
        end(f"there is no stage {words[0]}.{suggestion(words[0], known)}")
    else:
        script = str(SCRIPTS / f"{words[0]}.py")
        sys.argv = [script, *words[1:]]
        try:
            runpy.run_path(script, run_name="__main__")
        except ModuleNotFoundError as error:  # a script imports more than its settings at its top
            missing = describe_missing(error)
            if missing is None:
                raise
            end(missing)


if __name__ == "__main__":
    main()
