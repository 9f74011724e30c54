"""The stage `label`: prompts and candidates in, annotations out, as often as needed until all are there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from nemo_mm_align.core.configuration import StrictModel, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.labeling.annotations import write_annotations, write_unlabelled
from nemo_mm_align.labeling.announcement import announce
from nemo_mm_align.labeling.batch.settings import BatchSettings
from nemo_mm_align.labeling.batch.writer import write_batch
from nemo_mm_align.labeling.input_memory import InputMemory
from nemo_mm_align.labeling.inputs import LabelInputs, Selection
from nemo_mm_align.labeling.items import LabelContext
from nemo_mm_align.labeling.judge import Judge, check_processes, max_output_tokens_of, price_of
from nemo_mm_align.labeling.judge_call import JudgeCall, calls_of
from nemo_mm_align.labeling.judge_ledger import JudgeLedger
from nemo_mm_align.labeling.outputs import check_inputs, check_outputs
from nemo_mm_align.labeling.provenance import check_selection, default_ledger, report_path, settings_path
from nemo_mm_align.labeling.quality import report_quality
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.labeling.runs import calls_service, other_run
from nemo_mm_align.labeling.worker_pool import WorkerPoolJudge
from nemo_mm_align.llm.running.admission import Admission, open_admission
from nemo_mm_align.llm.running.budget import BudgetSettings, describe_tokens
from nemo_mm_align.llm.running.dry_run import Estimate, estimate, print_estimate, survey
from nemo_mm_align.llm.running.estimates import EstimateSettings
from nemo_mm_align.llm.running.progress import Tally, track
from nemo_mm_align.llm.running.runner import CallRunner, RunnerSettings
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import prompt_kind

log = logging.getLogger(__name__)


class LabelSettings(StrictModel):
    """Settings of the stage, as in ``conf/label.yaml``.

    Args:
        prompts, candidates: JSONL files of `Prompt` and `CandidateSet` records.
        out: the annotations to write.
        ledger: the file of all attempts; by default ``<out without suffix>.ledger.jsonl``.
        image_root: folder of the images; by default they lie relative to the prompts file.
        add_image_placeholders: put ``<image>`` in front of the first question of prompts that have images and no ``<image>``.
        attribute_schema: what is scored.
        reference_answer: whether the judge also writes its own answer.
        runner: see `RunnerSettings`.
        fsync_every: see `Ledger`.
        allow_failures: end without an error although prompts are left without a judgement.
        budget: see `BudgetSettings`.
        estimate: see `EstimateSettings`.
        batch: see `BatchSettings`.
        repeat, sample, seed: see `Selection`.
        dry_run: ask nothing and write nothing; say what the run would cost.
    """

    prompts: Path
    candidates: Path
    out: Path
    ledger: Path | None = None
    image_root: Path | None = None
    add_image_placeholders: bool = False
    attribute_schema: AttributeSchema
    reference_answer: bool = True
    runner: RunnerSettings = RunnerSettings()
    fsync_every: int = Field(default=1, ge=1)
    allow_failures: bool = False
    budget: BudgetSettings = BudgetSettings()
    estimate: EstimateSettings = EstimateSettings()
    batch: BatchSettings = BatchSettings()
    repeat: int = Field(default=0, ge=0)
    sample: int | None = Field(default=None, ge=1)
    seed: int = 0
    dry_run: bool = False

    @model_validator(mode="after")
    def _nothing_is_overwritten(self) -> LabelSettings:
        paths = [path.resolve() for path in (self.prompts, self.candidates, *self.outputs)]
        if len(set(paths)) < len(paths):
            raise ValueError(f"prompts, candidates, out and ledger must be different files; out is {self.out}")
        return self

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that a run writes, apart from those of a batch."""
        return self.out, self.ledger_path, self.unlabelled_path, report_path(self.out), settings_path(self.out)

    @property
    def ledger_path(self) -> Path:
        """Where the attempts are recorded."""
        return self.ledger or default_ledger(self.out)

    @property
    def selection(self) -> Selection:
        """Which prompts are labelled."""
        return Selection(self.repeat, self.sample, self.seed)

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


def label_from_config(config: Mapping[str, Any]) -> LabelSummary | Estimate:
    """Run the stage, or its dry run, on a plain configuration (``conf/label.yaml``, resolved)."""
    settings = read(LabelSettings, {key: value for key, value in config.items() if key != "judge"})
    check_inputs((settings.prompts, settings.candidates))
    if not settings.dry_run:
        check_outputs(settings.outputs)
    # May import a service's client, which is slow.
    judge = build_judge(config["judge"], settings.attribute_schema, asks=not settings.dry_run)
    check_processes(judge, settings.runner.processes)
    if settings.dry_run:
        return dry_run(settings, judge)
    runner = settings.runner
    if runner.processes == 1 or not calls_service(settings.batch, judge):
        return label(settings, judge)
    with WorkerPoolJudge(
        judge, config["judge"], settings.attribute_schema, runner.processes, runner.concurrency
    ) as pool:
        return label(settings, pool)


def label(settings: LabelSettings, judge: Judge) -> LabelSummary:
    """Label all prompts that the ledger does not know yet, and write annotations of all that it knows then.

    Raises:
        UserError: bad input or a budget in money without a price (before any call), a run that stopped by itself, or
            prompts left without a judgement (a used up budget, failures) while `allow_failures` is off. Annotations of
            all that was judged are written before the last two.
        SystemExit: after Ctrl-C or SIGTERM, with 128 + the signal's number; annotations are written before.
    """
    check_outputs(settings.outputs)
    with owned_output(settings.out), _opened(settings, judge) as (context, inputs, ledger, admission):
        if settings.batch.write is not None:
            written = write_batch(settings.batch, inputs, context, ledger, settings.runner.is_set_aside)
            return LabelSummary(len(inputs), 0, written["requests"], Tally(total=len(inputs)))
        other = other_run(settings.batch, context, ledger, inputs)
        known = sum(map(ledger.knew, inputs.keys))
        if other is None:
            to_do = calls_of(inputs.items(lambda key: not ledger.knew(key)), context)
            fingerprint, configuration = context.fingerprint, context.configuration
            asking = CallRunner(ledger, fingerprint, configuration, settings.runner, admission, known)
            tally = asking.run(to_do, len(inputs))
        else:
            tally = other.run(inputs.items(), len(inputs))
        run = other or asking
        annotations = write_annotations(settings.out, inputs, ledger, context)
        unlabelled = write_unlabelled(settings.unlabelled_path, inputs, ledger)
    summary = LabelSummary(len(inputs), annotations, unlabelled, tally)
    _report(settings, summary, admission)
    if run.stopped_by_signal is not None and run.error is None:
        raise SystemExit(128 + run.stopped_by_signal)
    try:
        if annotations:
            report_quality(settings.out, settings.attribute_schema, settings.ledger_path, settings.image_root)
    finally:  # why the run stopped goes before what became of its report
        if run.error is not None:
            raise run.error
    if unlabelled and not settings.allow_failures:
        if admission.exhausted:
            raise UserError(_describe_exhausted(summary, admission))
        raise UserError(_describe_unlabelled(settings, summary))
    return summary


def dry_run(settings: LabelSettings, judge: Judge) -> Estimate:
    """Print what `label` would ask, cost and take; ask nothing that costs, write nothing. Raises as `label` does."""
    with _opened(settings, judge) as (context, inputs, ledger, admission):
        known = ledger.spending(context.fingerprint)
        calls = track(calls_of(inputs.items(), context), "estimating", len(inputs))
        work = survey(calls, ledger, settings.runner, admission.estimator)
        estimated = estimate(work, known, settings.runner, admission)
    print_estimate(estimated, len(inputs), price_of(judge), settings.budget)
    return estimated


@contextmanager
def _opened(
    settings: LabelSettings, judge: Judge
) -> Iterator[tuple[LabelContext, LabelInputs, JudgeLedger, Admission]]:
    """Open and check all that a run needs; a dry run opens it without writing."""
    settings.budget.check(price_of(judge))
    check_selection(settings.out, settings.selection)
    context = LabelContext(judge, settings.attribute_schema, settings.reference_answer)
    memory = InputMemory(settings.ledger_path, read_only=settings.dry_run)
    inputs = LabelInputs(
        settings.prompts,
        settings.candidates,
        settings.image_root,
        settings.selection,
        memory,
        prompt_kind(settings.add_image_placeholders),
    )
    with JudgeLedger(settings.ledger_path, settings.fsync_every, read_only=settings.dry_run) as ledger:
        inputs.check(context, ledger.succeeded)
        announce(inputs, context, ledger)
        with open_admission(
            settings.runner,
            settings.budget,
            settings.estimate,
            ledger,
            context.fingerprint,
            JudgeCall(next(inputs.items()), context),
            price_of(judge),
            max_output_tokens_of(judge),
        ) as admission:
            yield context, inputs, ledger, admission


def _report(settings: LabelSettings, summary: LabelSummary, admission: Admission) -> None:
    tally, budget = summary.tally, admission.budget
    log.info(
        "%d of %d prompts have an annotation in %s (%d judged now, %d known before); %s",
        summary.annotations,
        summary.prompts,
        settings.out,
        tally.answered,
        tally.reused,
        tally.describe(),
    )
    if not admission.estimator.is_free:
        now, before = (describe_tokens(tokens, budget.price) for tokens in (budget.spent_now, budget.spent_before))
        log.info("spent by this run: %s; by earlier ones with these settings: %s", now, before)
    if admission.unknown_calls:
        log.warning(
            "the service did not say what %d calls cost; each counts as an average one above", admission.unknown_calls
        )
    if summary.unlabelled:
        log.warning("%d prompts have none: %s", summary.unlabelled, settings.unlabelled_path)


def _describe_exhausted(summary: LabelSummary, admission: Admission) -> str:
    budget = admission.budget
    missing = describe_tokens(admission.per_prompt.times(summary.unlabelled), budget.price)
    return (
        f"the budget is used up: {budget.describe()}; the next call might have exceeded it. {summary.unlabelled} of "
        f"{summary.prompts} prompts have no annotation yet and would cost about {missing} more. All that was judged is "
        "written: start the same command with a larger budget.max_cost or budget.max_tokens to go on."
    )


def _describe_unlabelled(settings: LabelSettings, summary: LabelSummary) -> str:
    others = f"; the others are in {settings.out}" if summary.annotations else ""
    last = (
        f" The last call that failed: {summary.tally.last_failure.rstrip('.')}." if summary.tally.last_failure else ""
    )
    if settings.batch.read:
        again = "Read further files of replies, or write what is missing with batch.write=... under another name;"
    else:
        again = "Start the same command again to retry failures of the service;"
    return (
        f"{summary.unlabelled} of {summary.prompts} prompts have no annotation; {settings.unlabelled_path} names them "
        f"with their last failure{others}.{last} {again} add runner.retry_set_aside=true to retry those set aside, "
        "or allow_failures=true to go on without them."
    )
