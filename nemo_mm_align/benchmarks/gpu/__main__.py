"""Measure training, decoding, attention and the peer on one GPU.

python -m nemo_mm_align.benchmarks.gpu [steps=train,decode,...] [budget_s=560] [size=7b|13b|toy] [out=gpu_out]

Every step runs in a process of its own and appends its figures to out/results.jsonl; the table is printed at the end and
written to out/gpu.md. size=toy runs all steps on a CPU as well; its figures mean nothing.
"""

from __future__ import annotations

import logging
import sys

from nemo_mm_align.benchmarks.gpu import options, plan
from nemo_mm_align.benchmarks.gpu.run import run
from nemo_mm_align.core.errors import UserError


def main() -> None:
    """Run the plan; a mistake in the words ends with one sentence and exit code 2."""
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        sys.stdout.write(f"{__doc__}\nSteps, in this order:\n")
        sys.stdout.writelines(f"  {step.name:10} {step.what} (at most {step.limit_s:.0f} s)\n" for step in plan.STEPS)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    command = " ".join(["python -m nemo_mm_align.benchmarks.gpu", *words])
    try:
        sys.stdout.write(run(options.from_words(words), command))
    except UserError as error:  # not `cli.user_errors`, which needs packages that a bare machine has not
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
