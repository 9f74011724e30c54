"""What a run would do and cost, without a call that is paid and without writing a file."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.ledger import Ledger
from nemo_mm_align.llm.price import Price
from nemo_mm_align.llm.running.admission import Admission
from nemo_mm_align.llm.running.budget import BudgetSettings, describe_tokens, money
from nemo_mm_align.llm.running.call import Call
from nemo_mm_align.llm.running.estimates import TokenEstimator
from nemo_mm_align.llm.running.limits import Limiter
from nemo_mm_align.llm.running.progress import describe_seconds
from nemo_mm_align.llm.running.runner import RunnerSettings
from nemo_mm_align.llm.running.spending import Spending, Tokens

log = logging.getLogger(__name__)

SAMPLE = 50
"""Prompts whose tokens the service is asked to count."""


@dataclass(frozen=True)
class Workload:
    """The prompts of a run, sorted by what will happen to them.

    Args:
        known: judged already; `set_aside`: failed by their own fault too often; `to_do`: to be asked, each text once.
        guessed: tokens of all questions to be asked, guessed from their lengths; `output`: expected ones of the replies.
        sample: random prompts to be asked.
    """

    known: int
    set_aside: int
    to_do: int
    guessed: int
    output: int
    sample: tuple[Call, ...]


@dataclass(frozen=True)
class Estimate:
    """What a run would cost: `tokens` in all, `seconds`, and in words how each figure was found (`*_source`)."""

    work: Workload
    tokens: Tokens
    input_source: str
    output_source: str
    seconds: float
    time_source: str
    spent: Tokens
    unknown_calls: int


def survey(calls: Iterable[Call], ledger: Ledger[Any], runner: RunnerSettings, estimator: TokenEstimator) -> Workload:
    """Go through all calls of a run as the runner would, and draw a sample of those to be made."""
    known, aside, guessed, output, asked, rng = 0, 0, 0, 0, set[str](), random.Random(0)
    sample: list[Call] = []
    for call in calls:
        if ledger.succeeded(call.key) or call.key in asked:
            known += 1
        elif runner.is_set_aside(ledger, call.key):
            aside += 1
        else:
            asked.add(call.key)
            guessed += estimator.guess(call)
            output += estimator.expected_output(call.size)
            if len(sample) < SAMPLE:
                sample.append(call)
            elif (place := rng.randrange(len(asked))) < SAMPLE:
                sample[place] = call
    return Workload(known, aside, len(asked), guessed, output, tuple(sample))


def estimate(work: Workload, known: Spending, runner: RunnerSettings, admission: Admission) -> Estimate:
    """Return what the work would cost and how long it would take.

    Args:
        known: what earlier calls under this configuration cost: their means are taken where there are any.
        admission: its limiter lets the token counts through, its budget knows what is spent.
    """
    estimator = admission.estimator
    questions, input_source = _input_tokens(work, known, admission)
    tokens = Tokens(questions, work.output)
    if estimator.is_free:
        output_source = "the judge uses no tokens"
    elif known.mean_tokens:
        output_source = f"mean of {known.counted_answers:,} replies in the ledger"
    else:
        per_candidate = estimator.settings.output_tokens_per_candidate
        output_source = f"assumed: estimate.output_tokens_per_candidate={per_candidate}"
    seconds, time_source = _duration(work.to_do, tokens, known, runner, estimator)
    spent, unknown = admission.budget.spent, known.unknown
    return Estimate(work, tokens, input_source, output_source, seconds, time_source, spent, unknown)


def print_estimate(
    estimated: Estimate, total: int, price: Price | None, budget: BudgetSettings, unit: str = "prompts"
) -> None:
    """Print a table of the estimate to the standard output."""
    table = Table(title="Dry run: nothing was asked of the judge that costs, nothing was written")
    for name in ("", "estimate", "how it is known"):
        table.add_column(name, justify="right" if name == "estimate" else "left", overflow="fold")
    for row in rows(estimated, total, price, budget, unit):
        table.add_row(*row)
    Console().print(table)


def rows(
    estimated: Estimate, total: int, price: Price | None, budget: BudgetSettings, unit: str = "prompts"
) -> Iterator[tuple[str, str, str]]:
    """Yield the lines of the table: what, how much, how that is known."""
    work, tokens = estimated.work, estimated.tokens
    yield unit, f"{total:,}", ""
    yield "  judged already", f"{work.known:,}", "in the ledger, or the same question twice"
    yield "  set aside", f"{work.set_aside:,}", "failed by their own fault; runner.retry_set_aside=true asks them again"
    yield "  to do", f"{work.to_do:,}", ""
    yield "input tokens", f"{tokens.input:,}", estimated.input_source
    yield "output tokens", f"{tokens.output:,}", estimated.output_source
    yield "cost", _cost(tokens, price), "without retries" if price else "judge.price is not set"
    yield "time", describe_seconds(estimated.seconds), estimated.time_source
    unknown = f"{estimated.unknown_calls:,} calls of unknown cost counted as average ones"
    spent_source = unknown if estimated.unknown_calls else "earlier runs with these settings, from the ledger"
    yield "spent so far", describe_tokens(estimated.spent, price), spent_source
    if budget.max_tokens is not None:
        yield "budget", f"{budget.max_tokens:,} tokens", _share(budget.max_tokens, estimated.spent.total, tokens.total)
    if budget.max_cost is not None and price is not None:
        spent, cost = (price.cost(amount.input, amount.output) for amount in (estimated.spent, tokens))
        yield "budget", money(budget.max_cost, price), _share(budget.max_cost, spent, cost)


def _cost(tokens: Tokens, price: Price | None) -> str:
    return money(price.cost(tokens.input, tokens.output), price) if price else "unknown"


def _share(limit: float, spent: float, needed: float) -> str:
    if spent + needed <= limit:
        return "enough"
    return f"enough for about {max(0.0, limit - spent) / needed:.0%} of what is to do"


def _input_tokens(work: Workload, known: Spending, admission: Admission) -> tuple[int, str]:
    """Return the tokens of all questions and how they are known: counted, as before, or guessed."""
    if admission.estimator.is_free or not work.to_do:
        return 0, "the judge uses no tokens" if work.to_do else ""
    counted = _count_sample(work.sample, admission)
    if counted:
        exact, guessed = (sum(column) for column in zip(*counted, strict=True))
        every = len(counted) == work.to_do
        source = "counted by the service" + ("" if every else f" on {len(counted)} random prompts")
        return exact if every else round(work.guessed * exact / max(guessed, 1)), source
    if known.mean_tokens:
        source = f"mean of {known.counted_answers:,} questions in the ledger"
        return known.mean_tokens.input * work.to_do, source
    return work.guessed, "guessed from the length of texts and the number of images"


def _count_sample(sample: tuple[Call, ...], admission: Admission) -> list[tuple[int, int]]:
    """Return (counted, guessed) tokens per prompt; nothing where the judge or the service cannot count."""
    if not all(call.can_count for call in sample):
        return []
    try:
        with ThreadPoolExecutor(max_workers=8) as pool:
            counts = list(pool.map(lambda call: _count(call, admission.limiter), sample))
    except CallFailure as failure:
        log.warning("the judge could not count tokens (%s); they are estimated instead", failure)
        return []
    pairs = zip(counts, sample, strict=True)
    return [(count, admission.estimator.guess(call)) for count, call in pairs if count is not None]


def _count(call: Call, limiter: Limiter) -> int | None:
    limiter.acquire(threading.Event())
    return call.count_tokens()


def _duration(
    calls: int, tokens: Tokens, known: Spending, runner: RunnerSettings, estimator: TokenEstimator
) -> tuple[float, str]:
    """Return the seconds that the slowest of concurrency and limits allows, and which that is."""
    latency = known.mean_seconds or estimator.settings.seconds_per_call
    how = "measured" if known.mean_seconds else "assumed: estimate.seconds_per_call"
    by_calls = f"{runner.concurrency} calls at once, {latency:.3g} s each ({how})"
    bounds = [(calls * latency / runner.concurrency, by_calls)]
    if runner.requests_per_minute:
        bounds.append((calls * 60 / runner.requests_per_minute, f"{runner.requests_per_minute:,} requests per minute"))
    if runner.tokens_per_minute:
        bounds.append((tokens.total * 60 / runner.tokens_per_minute, f"{runner.tokens_per_minute:,} tokens per minute"))
    return max(bounds)
