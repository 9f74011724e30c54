"""A judge asked the questions of tasks: every attempt in a ledger, within a budget, each question once whoever needs its answer.

What decides a reply is its key: the judge with its settings, the texts, the bytes of the images, how often it was asked before.
Replies are kept as they came. A run reads them anew by the rule of its task; where the rule has changed so that a kept reply
cannot be read any more, that question alone is asked again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from nemo_mm_align.core.configuration import StrictModel
from nemo_mm_align.core.hashing import hash_json
from nemo_mm_align.evaluation.judging import Judged
from nemo_mm_align.evaluation.kept_replies import Said, kept_replies, with_new_replies
from nemo_mm_align.evaluation.question_calls import Asked, QuestionCall, QuestionLedger
from nemo_mm_align.llm.client import LanguageModel, check_probabilities
from nemo_mm_align.llm.question import QuestionImage
from nemo_mm_align.llm.running.admission import Admission, open_admission
from nemo_mm_align.llm.running.budget import BudgetSettings
from nemo_mm_align.llm.running.dry_run import Estimate, estimate, survey
from nemo_mm_align.llm.running.estimates import EstimateSettings
from nemo_mm_align.llm.running.runner import CallRunner, RunnerSettings
from nemo_mm_align.llm.running.spent import Spent, spent_on
from nemo_mm_align.schema.image_hashes import ImageHashes
from nemo_mm_align.schema.images import read_image_bytes

log = logging.getLogger(__name__)

NOT_ASKED = "not asked: the budget is used up"


class AskingSettings(StrictModel):
    """How questions are asked, as in ``conf/evaluate.yaml``.

    Args:
        runner, budget, estimate: see their types.
        repeat: how often each is asked; above 1, scores are medians.
    """

    runner: RunnerSettings = RunnerSettings()
    budget: BudgetSettings = BudgetSettings()
    estimate: EstimateSettings = EstimateSettings()
    repeat: int = 1


class QuestionAsker:
    """Asks a language model what tasks want to know, task after task; its ``with`` block keeps the ledger open between them.

    Args:
        client: who is asked.
        ledger: file of all attempts.
        settings: see `AskingSettings`.

    Raises:
        UserError: a budget in money without a price.
    """

    def __init__(self, client: LanguageModel, ledger: Path, settings: AskingSettings) -> None:
        settings.budget.check(client.price)
        self.client, self.path, self.settings = client, ledger, settings
        self._hashes, self._opened = ImageHashes(), ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    @cached_property
    def _ledger(self) -> QuestionLedger:
        """Opened by the first question: what is not asked neither makes nor locks a file."""
        return self._opened.enter_context(QuestionLedger(self.path))

    @cached_property
    def _ledger_to_read(self) -> QuestionLedger:
        return self._opened.enter_context(QuestionLedger(self.path, read_only=True))

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """Who is asked, with what settings."""
        return {"judge": self.client.name, "settings": dict(self.client.settings)}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the configuration."""
        return hash_json(self.configuration, 32)

    def ask(self, asked: Sequence[Asked]) -> tuple[list[Judged], Spent]:
        """Return what was said to each question, in order, and what all that cost.

        Raises:
            UserError: an image is missing or broken (before anything is asked), or a run that stopped by itself.
            SystemExit: after Ctrl-C or SIGTERM; what was said is in the ledger.
        """
        self._check(asked)
        if not asked:
            return [], Spent()
        calls, ledger = self._calls(asked), self._ledger
        said = kept_replies(ledger, calls)
        self._run(ledger, said)
        said = with_new_replies(ledger, said)
        times = self.settings.repeat
        judged = [self._judged(ledger, said[start : start + times]) for start in range(0, len(said), times)]
        return judged, spent_on(ledger, {call.key for call, _ in said}, self.client.name)

    def dry_run(self, asked: Sequence[Asked]) -> Estimate | None:
        """Return what asking would cost; nothing is asked that costs, nothing is written. None without questions."""
        self._check(asked)
        if not asked:
            return None
        ledger = self._ledger_to_read
        calls = [call for call, _ in kept_replies(ledger, self._calls(asked))]
        with self._admission(ledger, calls[0]) as admission:
            work = survey(calls, ledger, self.settings.runner, admission.estimator)
            return estimate(work, ledger.spending(self.fingerprint), self.settings.runner, admission)

    def _check(self, asked: Sequence[Asked]) -> None:
        """Raise `UserError` where a question wants what the judge's service cannot give."""
        for most in sorted(asked, key=lambda one: -one.question.question.top_logprobs)[:1]:
            check_probabilities(self.client, most.question.question)

    def _with_hashes(self, asked: Asked) -> Asked:
        question = asked.question.question
        if not question.images:
            return asked
        parts = tuple(
            QuestionImage(part.path, self._hash(part.path)) if isinstance(part, QuestionImage) else part
            for part in question.parts
        )
        return replace(asked, question=replace(asked.question, question=replace(question, parts=parts)))

    def _hash(self, path: Path) -> str:
        return self._hashes.of(path, lambda _: read_image_bytes(path))

    def _calls(self, asked: Sequence[Asked]) -> list[QuestionCall]:
        """Return `repeat` calls for each question."""
        return [
            QuestionCall(one, self.client, self.fingerprint, repeat)
            for one in map(self._with_hashes, asked)
            for repeat in range(self.settings.repeat)
        ]

    def _admission(self, ledger: QuestionLedger, typical: QuestionCall) -> Any:
        settings, client = self.settings, self.client
        return open_admission(
            settings.runner,
            settings.budget,
            settings.estimate,
            ledger,
            self.fingerprint,
            typical,
            client.price,
            client.max_output_tokens,
        )

    def _run(self, ledger: QuestionLedger, said: Sequence[Said]) -> None:
        distinct = {call.key: call for call, _ in said}
        to_do = [call for key, call in distinct.items() if not ledger.succeeded(key)]
        known = len(distinct) - len(to_do)
        log.info(
            "%d questions to %s, %d of them answered before (%s)", len(distinct), self.client.name, known, self.path
        )
        if not to_do:
            return
        admission: Admission
        with self._admission(ledger, to_do[0]) as admission:
            run = CallRunner(
                ledger, self.fingerprint, self.configuration, self.settings.runner, admission, known, doing="judging"
            )
            tally = run.run(to_do, len(distinct))
        log.info("judged: %s", tally.describe())
        if run.error is not None:
            raise run.error
        if run.stopped_by_signal is not None:
            raise SystemExit(128 + run.stopped_by_signal)

    @staticmethod
    def _judged(ledger: QuestionLedger, said: Sequence[Said]) -> Judged:
        """Return what was said to one question, however often it was asked."""
        found = [reply for _, reply in said if reply]
        if not found:
            kinds = [ledger.failures(call.key).kind for call, _ in said]
            return Judged(failure=next((kind for kind in kinds if kind), NOT_ASKED))
        return Judged(tuple(reply.values for reply in found), tuple(reply.text for reply in found))
