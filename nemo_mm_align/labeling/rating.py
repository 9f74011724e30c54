"""Answers rated by a judge for whoever wants them, each by itself: an evaluation's answers, in one ledger."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.items import Item, LabelContext, content_key
from nemo_mm_align.labeling.judge import Judge, check_processes, max_output_tokens_of, price_of
from nemo_mm_align.labeling.judge_call import JudgeCall, calls_of
from nemo_mm_align.labeling.judge_ledger import JudgeLedger
from nemo_mm_align.labeling.judges.human.judge import HumanJudge
from nemo_mm_align.labeling.ledger_check import check_attempt
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.labeling.worker_pool import WorkerPoolJudge
from nemo_mm_align.llm.running import dry_run
from nemo_mm_align.llm.running.admission import Admission, open_admission
from nemo_mm_align.llm.running.budget import BudgetSettings
from nemo_mm_align.llm.running.estimates import EstimateSettings
from nemo_mm_align.llm.running.runner import CallRunner, RunnerSettings
from nemo_mm_align.llm.running.spent import Spent, spent_on
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.image_hashes import ImageHashes
from nemo_mm_align.schema.images import read_image_bytes
from nemo_mm_align.schema.records import Candidate, CandidateSet, Prompt

log = logging.getLogger(__name__)


AnsweredT = TypeVar("AnsweredT", bound="DataclassAnswer")


class DataclassAnswer(Protocol):
    """A dataclass with what is rated of an answer, and places for what is said of it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def prompt(self) -> Prompt:
        """What was asked."""

    @property
    def text(self) -> str:
        """The answer."""

    @property
    def image_paths(self) -> tuple[Path, ...]:
        """Where the prompt's images lie."""


@dataclass(frozen=True)
class Rated:
    """What a judge said of one answer: its ratings, or the class of the last failure ("" where it was not asked)."""

    ratings: dict[str, float] | None
    failure: str = ""


class AnswerRater:
    """Asks a judge about single answers. What stands in the ledger, for the same judge and rubric, is not asked again.

    Args:
        judge, schema: who rates, on what.
        ledger: file of all attempts.
        runner, budget, estimate: how calls are run, as in ``conf/label.yaml``.

    Raises:
        UserError: from a call: an image that is missing or broken (before anything is asked), a run that stopped by itself.
        SystemExit: after Ctrl-C or SIGTERM; what was judged is in the ledger.
    """

    def __init__(
        self,
        judge: Judge,
        schema: AttributeSchema,
        ledger: Path,
        runner: RunnerSettings,
        budget: BudgetSettings,
        estimate: EstimateSettings | None = None,
    ) -> None:
        budget.check(price_of(judge))
        self.context = LabelContext(judge, schema, want_reference=False)
        self.ledger, self.runner, self.budget = ledger, runner, budget
        self.estimate = estimate or EstimateSettings()
        self.spent = Spent()
        """What the answers of the last call cost, whichever runs asked about them."""

    def __call__(self, answers: Sequence[AnsweredT]) -> list[AnsweredT]:
        """Return the answers with `ratings`, or with the `failure` that left them without, in order."""
        rated = self.rate([(one.prompt, one.image_paths, one.text) for one in answers])
        pairs = zip(answers, rated, strict=True)
        return [replace(one, ratings=said.ratings, failure=said.failure) for one, said in pairs]

    def rate(self, answers: Sequence[tuple[Prompt, tuple[Path, ...], str]]) -> list[Rated]:
        """Return what the judge says of (prompt, its images' paths, answer), in order."""
        hashes = ImageHashes()
        items = [self._item(prompt, paths, text, hashes) for prompt, paths, text in answers]
        if not items:
            return []
        with JudgeLedger(self.ledger) as ledger:
            known = sum(ledger.succeeded(item.key) for item in items)
            log.info("%d answers for %s, %d of them judged before (%s)", len(items), self._name, known, self.ledger)
            self._ask(ledger, [item for item in items if not ledger.succeeded(item.key)], known)
            self.spent = spent_on(ledger, {item.key for item in items}, self._name)
            return [self._rated(ledger, item) for item in items]

    def dry_run(self, answers: Sequence[tuple[Prompt, tuple[Path, ...], str]]) -> dry_run.Estimate | None:
        """Return what rating these would cost; nothing is asked that costs, nothing is written. None without answers."""
        hashes = ImageHashes()
        items = [self._item(*answer, hashes) for answer in answers]
        if not items:
            return None
        with JudgeLedger(self.ledger, read_only=True) as ledger, self._admission(ledger, items[0]) as admission:
            work = dry_run.survey(calls_of(items, self.context), ledger, self.runner, admission.estimator)
            return dry_run.estimate(work, ledger.spending(self.context.fingerprint), self.runner, admission)

    @property
    def _name(self) -> str:
        return self.context.judge.name

    def _item(self, prompt: Prompt, paths: tuple[Path, ...], text: str, hashes: ImageHashes) -> Item:
        candidates = CandidateSet(prompt_id=prompt.id, candidates=(Candidate(text=text),))
        images = tuple(hashes.of(path, lambda data, path=path: read_image_bytes(path)) for path in paths)  # type: ignore[misc]
        key = content_key(self.context.fingerprint, prompt, images, candidates, self.context.judge.reads_metadata)
        return Item(prompt, candidates, paths, key, images)

    def _ask(self, ledger: JudgeLedger, items: Sequence[Item], known: int) -> None:
        if not items:
            return
        context = self.context
        with self._admission(ledger, items[0]) as admission:
            run = CallRunner(
                ledger, context.fingerprint, context.configuration, self.runner, admission, known, doing="judging"
            )
            tally = run.run(calls_of(items, context), len(items) + known)
        log.info("judged: %s", tally.describe())
        if run.error is not None:
            raise run.error
        if run.stopped_by_signal is not None:
            raise SystemExit(128 + run.stopped_by_signal)

    def _admission(self, ledger: JudgeLedger, typical: Item) -> AbstractContextManager[Admission]:
        context = self.context
        return open_admission(
            self.runner,
            self.budget,
            self.estimate,
            ledger,
            context.fingerprint,
            JudgeCall(typical, context),
            price_of(context.judge),
            max_output_tokens_of(context.judge),
        )

    def _rated(self, ledger: JudgeLedger, item: Item) -> Rated:
        if not ledger.succeeded(item.key):
            return Rated(None, ledger.failures(item.key).kind or "not asked: the budget is used up")
        attempt = ledger.result(item.key)
        check_attempt(ledger, attempt, item, self.context.schema)
        return Rated(dict(attempt.ratings[0]))


@contextmanager
def rated_by(
    config: Mapping[str, Any],
    schema: AttributeSchema,
    ledger: Path,
    runner: RunnerSettings,
    budget: BudgetSettings,
    estimate: EstimateSettings | None = None,
    asks: bool = True,
) -> Iterator[AnswerRater]:
    """Make the rater of a configuration (a file of conf/judge); worker processes, where there are any, end with it.

    Args:
        asks: whether it is to rate; one that is not, for a dry run, needs neither a key nor worker processes.

    Raises:
        UserError: the judge cannot be made, or asks nobody by itself (a person on a page).
    """
    judge = build_judge(config, schema, asks)
    if isinstance(judge, HumanJudge):
        raise UserError(
            "judge=human labels on a page: have answers rated by scripts/label.py, or choose another judge here."
        )
    check_processes(judge, runner.processes)
    if runner.processes == 1 or not asks:
        yield AnswerRater(judge, schema, ledger, runner, budget, estimate)
        return
    with WorkerPoolJudge(judge, config, schema, runner.processes, runner.concurrency) as pool:
        yield AnswerRater(pool, schema, ledger, runner, budget, estimate)
