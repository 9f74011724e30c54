"""Lines of a ledger are checked as replies are when they are read: a line changed by hand is noticed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.items import Item
from nemo_mm_align.labeling.judge_ledger import JudgeAttempt, JudgeLedger
from nemo_mm_align.schema.attributes import AttributeSchema


def checked_results(
    ledger: JudgeLedger, items: Iterable[Item], keys: list[str], schema: AttributeSchema
) -> Iterator[tuple[Item, JudgeAttempt | None]]:
    """Yield each item with the judgement that holds for it, or None; `keys` are those of the items, in their order.

    Raises:
        RecordError: a line is no judgement of its item's candidates on this schema.
    """
    for item, attempt in zip(items, ledger.results(keys), strict=True):
        if attempt is not None:
            check_attempt(ledger, attempt, item, schema)
        yield item, attempt


def check_attempt(ledger: JudgeLedger, attempt: JudgeAttempt, item: Item, schema: AttributeSchema) -> None:
    """Raise `RecordError`, with file and line, where a judgement is not one of the item's candidates on this schema."""
    problem = _problem(attempt, len(item.candidates.candidates), schema)
    if problem:
        raise ledger.line_error(item.key, problem)


def _problem(attempt: JudgeAttempt, count: int, schema: AttributeSchema) -> str:
    if attempt.status != "ok":
        return "a judgement and a failure in one."
    if sorted(attempt.order) != list(range(count)):
        return f"order {list(attempt.order)} is none of {count} candidates."
    if len(attempt.ratings) != count or len(attempt.reasoning) != count:
        return f"{len(attempt.ratings)} ratings and {len(attempt.reasoning)} reasonings for {count} candidates."
    for number, ratings in enumerate(attempt.ratings, start=1):
        try:
            schema.check(ratings)
        except UserError as error:
            return f"ratings of candidate {number}: {error}"
    return ""
