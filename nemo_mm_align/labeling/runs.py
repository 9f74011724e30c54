"""Runs that ask no service: a batch is read, or a person labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nemo_mm_align.labeling.batch.reader import BatchReader
from nemo_mm_align.labeling.batch.settings import BatchSettings
from nemo_mm_align.labeling.inputs import LabelInputs
from nemo_mm_align.labeling.items import LabelContext
from nemo_mm_align.labeling.judge import Judge
from nemo_mm_align.labeling.judge_ledger import JudgeLedger
from nemo_mm_align.labeling.judges.human.judge import HumanJudge

if TYPE_CHECKING:
    from nemo_mm_align.labeling.judges.human.session import HumanSession


def calls_service(batch: BatchSettings, judge: Judge) -> bool:
    """Whether a run makes calls: neither a batch is written or read, nor does a person label."""
    return batch.write is None and not batch.read and not isinstance(judge, HumanJudge)


def other_run(
    batch: BatchSettings, context: LabelContext, ledger: JudgeLedger, inputs: LabelInputs
) -> BatchReader | HumanSession | None:
    """Return the run that takes the place of the one that makes calls, if there is one."""
    if batch.read:
        return BatchReader(context, ledger, batch)
    if isinstance(context.judge, HumanJudge):
        # Page and server, which no other run needs.
        from nemo_mm_align.labeling.judges.human.session import HumanSession

        return HumanSession(context.judge, context, ledger, inputs)
    return None
