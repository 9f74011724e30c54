"""The stage `label`: prompts and candidates in, annotations out, as often as needed until all are there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.errors import UserError
from nemo_mm_align.labeling.annotations import write_annotations, write_unlabelled
from nemo_mm_align.labeling.inputs import LabelInputs
from nemo_mm_align.labeling.jobs import LabelContext
from nemo_mm_align.labeling.judge import Judge
from nemo_mm_align.labeling.ledger import Ledger
from nemo_mm_align.labeling.progress import Tally
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.labeling.runner import LabelRunner, RunnerSettings

log = logging.getLogger(__name__)


class BudgetSettings(BaseModel):
    """Where a run stops spending; None for no limit. What earlier runs on the same ledger spent counts too.

    Args:
        max_cost: in the currency of the judge's price.
        max_tokens: of questions and replies together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, gt=0)


class LabelSettings(BaseModel):
    """Settings of the stage, as in ``conf/label.yaml``.

    Args:
        prompts, candidates: JSONL files of `Prompt` and `CandidateSet` records.
        out: the annotations to write.
        ledger: the file of all attempts; by default ``<out without suffix>.ledger.jsonl``.
        image_root: folder of the images; by default they lie relative to the prompts file.
        attribute_schema: what is scored.
        reference_answer: whether the judge also writes its own answer.
        runner: see `RunnerSettings`.
        fsync_every: see `Ledger`.
        allow_failures: end without an error although prompts are left without a judgement.
        budget: see `BudgetSettings`.
        dry_run: ask nothing and write nothing; say what the run would cost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: Path
    candidates: Path
    out: Path
    ledger: Path | None = None
    image_root: Path | None = None
    attribute_schema: AttributeSchema
    reference_answer: bool = True
    runner: RunnerSettings = RunnerSettings()
    fsync_every: int = Field(default=1, ge=1)
    allow_failures: bool = False
    budget: BudgetSettings = BudgetSettings()
    dry_run: bool = False

    @model_validator(mode="after")
    def _nothing_is_overwritten(self) -> LabelSettings:
        written = [path.resolve() for path in (self.out, self.ledger_path, self.unlabelled_path)]
        paths = [self.prompts.resolve(), self.candidates.resolve(), *written]
        if len(set(paths)) < len(paths):
            raise ValueError(f"prompts, candidates, out and ledger must be different files; out is {self.out}")
        return self

    @property
    def ledger_path(self) -> Path:
        """Where the attempts are recorded."""
        return self.ledger or self.out.with_name(f"{self.out.stem}.ledger.jsonl")

    @property
    def unlabelled_path(self) -> Path:
        """Where prompts without a judgement are listed."""
        return self.out.with_name(f"{self.out.stem}.unlabelled.jsonl")


@dataclass(frozen=True)
class LabelSummary:
    """Outcome of a run: prompts in all, annotations written, prompts without one, and the counts of this run."""

    prompts: int
    annotations: int
    unlabelled: int
    tally: Tally


def label_from_config(config: Mapping[str, Any]) -> LabelSummary:
    """Run the stage on a plain configuration (``conf/label.yaml``, resolved)."""
    settings = LabelSettings.model_validate({key: value for key, value in config.items() if key != "judge"})
    return label(settings, build_judge(config["judge"], settings.attribute_schema))


def label(settings: LabelSettings, judge: Judge) -> LabelSummary:
    """Label all prompts that the ledger does not know yet, and write annotations of all that it knows then.

    Raises:
        UserError: bad input (before any call), a run that stopped by itself, or prompts left without a judgement while
            `allow_failures` is off. Annotations of all that was judged are written before the last two.
        SystemExit: after Ctrl-C or SIGTERM, with 128 + the signal's number; annotations are written before.
    """
    context = LabelContext(judge, settings.attribute_schema, settings.reference_answer)
    inputs = LabelInputs(settings.prompts, settings.candidates, settings.image_root)
    with Ledger(settings.ledger_path, settings.fsync_every) as ledger:
        inputs.check(context, ledger.succeeded)
        runner = LabelRunner(context, ledger, settings.runner)
        tally = runner.run(inputs.jobs(), len(inputs))
        annotations = write_annotations(settings.out, inputs, ledger, context)
        unlabelled = write_unlabelled(settings.unlabelled_path, inputs, ledger)
    summary = LabelSummary(len(inputs), annotations, unlabelled, tally)
    _report(settings, summary)
    if runner.error is not None:
        raise runner.error
    if runner.stopped_by_signal is not None:
        raise SystemExit(128 + runner.stopped_by_signal)
    if unlabelled and not settings.allow_failures:
        raise UserError(_describe_unlabelled(settings, summary))
    return summary


def _report(settings: LabelSettings, summary: LabelSummary) -> None:
    tally = summary.tally
    log.info(
        "%d of %d prompts have an annotation in %s (%d judged now, %d known before); %s",
        summary.annotations,
        summary.prompts,
        settings.out,
        tally.labelled,
        tally.reused,
        tally.describe(),
    )
    if summary.unlabelled:
        log.warning("%d prompts have none: %s", summary.unlabelled, settings.unlabelled_path)


def _describe_unlabelled(settings: LabelSettings, summary: LabelSummary) -> str:
    return (
        f"{summary.unlabelled} of {summary.prompts} prompts have no annotation; {settings.unlabelled_path} names them "
        f"with their last failure; the others are in {settings.out}. Start the same command again to retry failures of "
        "the service; add runner.retry_set_aside=true to retry those set aside, "
        "or allow_failures=true to go on without them."
    )
