"""Make ``labels``: prompts, pictures, candidates, and what a labelling run made of them: ledger and annotations.

    python -m tests.golden.make.labels CHECKOUT OUT

The judge's client is the checkout's; the service is the tests' local server, which fails in most ways that it knows. Two
prompts stay without a judgement: the service will not look at them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.golden.labels import KEY, PROMPTS, SET_ASIDE, words
from tests.golden.make import old
from tests.judge_server import FaultPlan, judge_server, make_files

NOT_KEPT = ("annotations.html", "annotations.ledger.images", "annotations.ledger.inputs")
"""A page for people, and what a start remembers of this machine's files to save time."""

SCHEDULE = {
    1: "500",
    3: "prose",
    5: "prompt_blocked",
    7: "out_of_range",
    9: "429",
    11: "missing_candidate",
    13: "reply_blocked",
    15: "recitation",
    17: "token_limit",
    19: "page",
}


def main(checkout: Path, out: Path) -> None:
    """Label with failures, and once more to see that nothing is asked again."""
    os.environ["GEMINI_API_KEY"] = KEY
    folder = out / "labels"
    make_files(folder, PROMPTS)
    with judge_server(FaultPlan(SCHEDULE)) as server:
        said = old.run(checkout, "label.py", words(server.address), folder=folder, code=2)
        assert f"{SET_ASIDE} of {PROMPTS} prompts have no annotation" in said, said
        asked, before = len(server.exchanges), (folder / "annotations.jsonl").read_bytes()
        assert {exchange.fault for exchange in server.exchanges} == {"", *SCHEDULE.values()}
        (folder / "annotations.jsonl").unlink()
        old.run(checkout, "label.py", words(server.address), folder=folder, code=2)
        assert (len(server.exchanges), (folder / "annotations.jsonl").read_bytes()) == (asked, before)
    for name in NOT_KEPT:
        (folder / name).unlink()


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:3]))
