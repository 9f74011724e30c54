"""Step ``tests``: tests/gpu in one process, those for two GPUs included."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

from nemo_mm_align.benchmarks.gpu import junit
from nemo_mm_align.core.repository import ROOT
from nemo_mm_align.verify.context import Context
from nemo_mm_align.verify.outcome import Outcome, Verdict, skipped

_VARIABLES = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # plugins of the image's need not fit
    "OMP_NUM_THREADS": "4",
}


def perform(context: Context) -> Outcome:
    """Run them and read pytest's own report."""
    if not (ROOT / "tests" / "gpu").is_dir():
        return skipped("no folder tests beside the package: mount the checkout's, as containers/verify.sh does")
    if importlib.util.find_spec("pytest") is None:
        return skipped("pytest is not installed here: pip install pytest")
    report = context.work / "tests.xml"
    words = ["-m", "pytest", "tests/gpu", "-q", "-rfEs", "--tb=short", "-p", "no:cacheprovider"]
    ended = context.python([*words, f"--junitxml={report}"], variables=_VARIABLES)
    outcome = judge(report, ended.code)
    if outcome.verdict is Verdict.FAILED:
        return Outcome(Verdict.FAILED, f"{outcome.found} ({ended.how})", outcome.figures, ended.lines)
    return outcome


def judge(report: Path, code: int | None) -> Outcome:
    """Passed only where every test ran; where all were skipped, skipped."""
    found = junit.counts(report)
    if "error" in found:
        return Outcome(Verdict.FAILED, "pytest wrote no report")
    reasons = Counter(junit.skip_reasons(report))
    why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    bad, left = found["failures"] + found["errors"], found["skipped"]
    passed = found["tests"] - bad - left
    text = f"{passed} passed, {bad} failed, {left} skipped" + (f": {why}" if why else "")
    failed = "\n".join(f"- {line}" for line in found["failed"])
    if bad or code not in ((0, 5) if passed == 0 else (0,)):  # 5: pytest has found no test that it could run
        return Outcome(Verdict.FAILED, text, failed)
    if passed == 0:
        return skipped(why or "pytest found no test")
    return Outcome(Verdict.IN_PART if left else Verdict.PASSED, text)
