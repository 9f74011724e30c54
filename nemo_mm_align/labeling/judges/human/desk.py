"""Which prompt a person is asked, and what was answered: each answer, and each correction, goes into the ledger at once.

A correction is a further line of the ledger under the same key; the last one holds, the earlier ones stay.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nemo_mm_align.labeling.inputs import LabelInputs
from nemo_mm_align.labeling.items import Item, LabelContext
from nemo_mm_align.labeling.judge_ledger import JudgeAttempt, JudgeLedger
from nemo_mm_align.labeling.judges.human.answers import Answer, FormError, fill_form, read_answer
from nemo_mm_align.labeling.ledger_check import checked_results
from nemo_mm_align.llm.ledger import now
from nemo_mm_align.llm.running.progress import Tally


@dataclass(frozen=True)
class Task:
    """A prompt on the page.

    Args:
        item: the prompt and its candidates.
        answer: what stands in the ledger; None for a prompt that was not answered yet.
        skipped: whether it was left for later before.
        values: fields of the form to fill in.
    """

    item: Item
    answer: JudgeAttempt | None
    skipped: bool
    values: Mapping[str, str]

    @property
    def revision(self) -> int:
        """Number that the answer to this page gets: 0 for the first one, then one more per correction."""
        return self.answer.revision + 1 if self.answer else 0


class Desk:
    """Hands out one prompt at a time, and any answered one again. Safe for several threads: two open tabs do no harm.

    Args:
        items: all prompts, in the order of asking; those with a judgement in the ledger are passed over.
        inputs: the same prompts, to look up answered ones.
        context, ledger: as for any run.

    Raises:
        RecordError: a line of the ledger is no judgement of its prompt.
    """

    def __init__(self, items: Iterable[Item], inputs: LabelInputs, context: LabelContext, ledger: JudgeLedger) -> None:
        self.inputs, self.context, self.ledger = inputs, context, ledger
        self._items, self._later = iter(items), deque[Item]()
        self._skipped, self._drafts = set[str](), dict[str, dict[str, str]]()
        self._shown: dict[str, float] = {}
        self._answered = [key for key in dict.fromkeys(inputs.keys) if ledger.succeeded(key)]
        self._lock = threading.RLock()
        self._current: Item | None = None
        self.tally = Tally(total=len(inputs), reused=self.done)
        self.corrections = 0
        for _ in self.answers():  # a line changed by hand shows now, not on a page
            pass
        self._advance()

    @property
    def current(self) -> Item | None:
        """The prompt to ask now; None where all are answered."""
        with self._lock:
            return self._current

    @property
    def done(self) -> int:
        """How many prompts have an answer."""
        return sum(map(self.ledger.succeeded, self.inputs.keys))

    @property
    def waiting(self) -> int:
        """How many prompts have been left for later."""
        return len(self._later)

    def task(self, key: str | None = None) -> Task | None:
        """Return the page of an answered prompt, or of the one to ask now; None where there is none of that key."""
        with self._lock:
            item = self.item(key) if key is not None else self._current
            if item is None:
                return None
            self._shown.setdefault(item.key, time.monotonic())
            answer = self._standing(item.key)
            values = fill_form(Answer.of(answer), item.order) if answer else self._drafts.get(item.key, {})
            return Task(item, answer, item.key in self._skipped, values)

    def item(self, key: str) -> Item | None:
        """Return a prompt that may be shown: the one to ask now, or an answered one."""
        with self._lock:
            if self._current is not None and self._current.key == key:
                return self._current
            return self.inputs.item(key) if self.ledger.succeeded(key) else None

    def before(self, key: str | None) -> str | None:
        """Return the key of the prompt answered before this one (before the one to ask now); None for the first."""
        with self._lock:
            place = self._answered.index(key) if key in self._answered else len(self._answered)
            return self._answered[place - 1] if place else None

    def answers(self) -> Iterator[tuple[Item, JudgeAttempt]]:
        """Yield the answered prompts with what stands in the ledger, in the order of the prompts file."""
        keys = [key for key in self.inputs.keys if self.ledger.succeeded(key)]
        wanted = set(keys)
        items = self.inputs.items(wanted.__contains__)
        for item, attempt in checked_results(self.ledger, items, keys, self.context.schema):
            if attempt is not None:
                yield item, attempt

    def save(self, key: str, revision: int, form: Mapping[str, str]) -> None:
        """Record an answer or a correction; the answer to the prompt to ask now leads on to the next.

        Sent twice, it is recorded once; so is a correction that changes nothing.

        Args:
            revision: of the page that was answered (`Task.revision`).

        Raises:
            FormError: a score is missing or out of range, or the prompt was answered on another page meanwhile.
        """
        with self._lock:
            item = self.item(key)
            if item is None:
                return
            standing = self._standing(key)
            answer = read_answer(form, item.order, self.context.schema)
            if standing is None or answer != Answer.of(standing):
                self._check_revision(standing, revision)
                self._record(item, answer, revision)
            if self._current is not None and self._current.key == key:
                self._advance()

    def keep(self, key: str, form: Mapping[str, str]) -> None:
        """Remember what was filled in for the prompt to ask now, as long as this sitting lasts."""
        with self._lock:
            if self._current is not None and self._current.key == key:
                self._drafts[key] = dict(form)

    def skip(self, key: str, form: Mapping[str, str]) -> None:
        """Leave the prompt to ask now for later, with what was filled in; it comes again after all others."""
        with self._lock:
            if self._current is not None and self._current.key == key:
                self.keep(key, form)
                self._skipped.add(key)
                self._later.append(self._current)
                self._advance()

    def _standing(self, key: str) -> JudgeAttempt | None:
        return self.ledger.result(key) if self.ledger.succeeded(key) else None

    def _check_revision(self, standing: JudgeAttempt | None, revision: int) -> None:
        if revision != (standing.revision + 1 if standing else 0):
            raise FormError(
                "This prompt was answered on another page meanwhile. Save again to replace that answer by this one."
            )

    def _record(self, item: Item, answer: Answer, revision: int) -> None:
        shown = self._shown.pop(item.key, time.monotonic())
        self.ledger.add(
            JudgeAttempt(
                key=item.key,
                status="ok",
                configuration=self.context.fingerprint,
                usage={"input_tokens": 0, "output_tokens": 0},
                seconds=round(time.monotonic() - shown, 3),
                time=now(),
                prompt_id=item.prompt.id,
                order=item.order,
                ratings=answer.ratings,
                reasoning=answer.reasoning,
                reference_answer=answer.reference_answer,
                revision=revision,
            )
        )
        self.tally.calls += 1
        if revision:
            self.corrections += 1
        else:
            self._answered.append(item.key)
            self.tally.answered = self.done - self.tally.reused

    def _advance(self) -> None:
        """Go on to the next prompt without a judgement: first those not seen yet, then those left for later."""
        unseen = (item for item in self._items if not self.ledger.succeeded(item.key))
        self._current = next(unseen, None)
        while self._current is None and self._later:
            item = self._later.popleft()
            self._current = None if self.ledger.succeeded(item.key) else item
