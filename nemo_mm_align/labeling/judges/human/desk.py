"""Which prompt a person is asked next, and what was answered: each answer goes into the ledger at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nemo_mm_align.attributes import Attribute
from nemo_mm_align.errors import UserError
from nemo_mm_align.labeling.jobs import Job, LabelContext, in_file_order
from nemo_mm_align.labeling.ledger import Attempt, Ledger, now
from nemo_mm_align.labeling.running.progress import Tally

MAX_TEXT = 20_000


@dataclass
class Task:
    """The prompt on the page. `skipped`: it was left for later before. `shown`: when it came up first (monotonic, s)."""

    job: Job
    skipped: bool
    shown: float


class FormError(UserError):
    """An answer that is not complete or not in range."""


def score_field(position: int, name: str) -> str:
    """Return the form field of an attribute of the candidate shown at a position (from 1)."""
    return f"score-{position}-{name}"


def note_field(position: int) -> str:
    """Return the form field of the reasoning on the candidate shown at a position (from 1)."""
    return f"note-{position}"


REFERENCE_FIELD = "reference"


class Desk:
    """Hands out one prompt at a time. Safe for several threads, so that two open tabs do no harm.

    Args:
        jobs: all prompts; those with a judgement in the ledger are passed over.
        total: their number.
        context, ledger: as for any run.
    """

    def __init__(self, jobs: Iterable[Job], total: int, context: LabelContext, ledger: Ledger) -> None:
        self.context, self.ledger = context, ledger
        self.tally = Tally(total=total)
        self._jobs: Iterator[Job] = iter(jobs)
        self._later: deque[Job] = deque()
        self._lock = threading.RLock()
        self._task: Task | None = None
        self._advance()

    @property
    def task(self) -> Task | None:
        """The prompt to ask now; None where all are answered."""
        with self._lock:
            return self._task

    @property
    def waiting(self) -> int:
        """How many prompts have been left for later."""
        return len(self._later)

    def save(self, key: str, form: Mapping[str, str]) -> None:
        """Record the answer to the prompt on the page and go on to the next; an older page's answer changes nothing.

        Raises:
            FormError: a score is missing or out of range.
        """
        with self._lock:
            task = self._task
            if task is None or task.job.key != key:
                return
            self._record(task, form)
            self.tally.calls += 1
            self.tally.labelled += 1
            self._advance()

    def skip(self, key: str) -> None:
        """Leave the prompt on the page for later; it comes again after all others."""
        with self._lock:
            if self._task is not None and self._task.job.key == key:
                self._later.append(self._task.job)
                self._advance()

    def _advance(self) -> None:
        """Go on to the next prompt without a judgement: first those not seen yet, then those left for later."""
        for job in self._jobs:
            if not self.ledger.succeeded(job.key):
                self._task = Task(job, False, time.monotonic())
                return
            self.tally.reused += 1
        while self._later:
            job = self._later.popleft()
            if not self.ledger.succeeded(job.key):
                self._task = Task(job, True, time.monotonic())
                return
        self._task = None

    def _record(self, task: Task, form: Mapping[str, str]) -> None:
        job, schema = task.job, self.context.schema
        positions = range(1, len(job.order) + 1)
        ratings = [
            {each.name: read_score(form.get(score_field(position, each.name), ""), each) for each in schema.attributes}
            for position in positions
        ]
        reasoning = [form.get(note_field(position), "").strip()[:MAX_TEXT] for position in positions]
        self.ledger.add(
            Attempt(
                key=job.key,
                status="ok",
                configuration=self.context.fingerprint,
                usage={"input_tokens": 0, "output_tokens": 0},
                seconds=round(time.monotonic() - task.shown, 3),
                time=now(),
                prompt_id=job.prompt.id,
                order=job.order,
                ratings=tuple(in_file_order(ratings, job.order)),
                reasoning=tuple(in_file_order(reasoning, job.order)),
                reference_answer=form.get(REFERENCE_FIELD, "").strip()[:MAX_TEXT] or None,
            )
        )


def read_score(text: str, attribute: Attribute) -> float:
    """Return a score as it stands in a form, or raise `FormError`."""
    try:
        return attribute.check(float(text.strip().replace(",", ".")))
    except UserError as error:
        raise FormError(str(error)) from None
    except ValueError:
        problem = f"{text.strip()[:20]!r} is not a number" if text.strip() else "is missing"
        raise FormError(f"{attribute.name}: {problem}; give every candidate a score.") from None
