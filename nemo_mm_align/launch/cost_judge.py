"""What a judge will be asked: calls, tokens by the guesses that its own runs begin with, and the most it can come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nemo_mm_align.core.configuration import read
from nemo_mm_align.labeling.judge import JudgeRequest
from nemo_mm_align.labeling.rubric import build_question
from nemo_mm_align.launch.compose import Composed
from nemo_mm_align.launch.cost_inputs import Asked, text_of
from nemo_mm_align.llm.price import Price, read_price
from nemo_mm_align.llm.running.budget import BudgetSettings
from nemo_mm_align.llm.running.estimates import UNMEASURED_RATIO, EstimateSettings, TokenEstimator, guess_input_tokens
from nemo_mm_align.llm.running.runner import RunnerSettings
from nemo_mm_align.llm.running.spending import Spending, Tokens
from nemo_mm_align.schema.attributes import AttributeSchema


@dataclass(frozen=True)
class JudgeUse:
    """Calls of a stage; `most_...` where every call fails and is made again as often as the runner tries.

    Args:
        price: of the judge's tokens; None where the user gave none.
        most_cost: in the price's currency, the budget's limit if that is less; None without a price.
    """

    calls: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    most_calls: int = 0
    most_tokens: Tokens = field(default_factory=Tokens)
    price: Price | None = None
    most_cost: float | None = None

    @property
    def cost(self) -> float | None:
        """What the expected tokens cost; None without a price."""
        return self.price.cost(self.tokens.input, self.tokens.output) if self.price else None


@dataclass(frozen=True)
class Questions:
    """Questions of one kind: how many, and tokens of one, expected and at worst."""

    count: int
    expected: Tokens
    worst: Tokens


def rated_questions(
    composed: Composed, asked: Asked, count: int, candidates: int, schema: AttributeSchema, answer_tokens: float
) -> Questions:
    """Return questions that have answers rated on a schema.

    Args:
        count: questions, which are taken to be like those about the prompts of `asked` that are shown.
        candidates: answers in each.
    """
    wants = bool(composed.get("reference_answer"))
    text = text_of(answer_tokens)
    guesses = [
        guess_input_tokens(
            build_question(
                JudgeRequest(
                    prompt, (text,) * candidates, tuple(map(Path, prompt.images)), schema, want_reference=wants
                )
            )
        )
        for prompt in asked.shown
    ]
    estimator = _estimator(composed)
    guess = 0 if estimator.is_free else round(sum(guesses) / len(guesses))
    return Questions(count, estimator.expected(guess, candidates), estimator.worst(guess, candidates))


def task_questions(composed: Composed, count: int, expected: Tokens) -> Questions:
    """Return questions of a task in its own words, `expected` tokens each."""
    most = _limit(composed)
    output = most if most is not None else 2 * expected.output
    if most == 0:
        return Questions(count, Tokens(), Tokens())
    return Questions(count, expected, Tokens(round(UNMEASURED_RATIO * expected.input), output))


def judge_use(composed: Composed, questions: Sequence[Questions]) -> JudgeUse:
    """Add up questions, at the judge's price and within the budget."""
    attempts = read(RunnerSettings, composed.plain("runner"), "runner").max_attempts
    budget = read(BudgetSettings, composed.plain("budget"), "budget")
    price = read_price(composed.plain("judge.price"))
    tokens, most = Tokens(), Tokens()
    for kind in questions:
        tokens += kind.expected.times(kind.count)
        most += kind.worst.times(kind.count * attempts)
    if budget.max_tokens is not None and most.total > budget.max_tokens:
        most = most.times(budget.max_tokens / most.total)
    calls = sum(kind.count for kind in questions)
    most_cost = price.cost(most.input, most.output) if price else None
    if most_cost is not None and budget.max_cost is not None:
        most_cost = min(most_cost, budget.max_cost)
    return JudgeUse(calls, tokens, calls * attempts, most, price, most_cost)


def _estimator(composed: Composed) -> TokenEstimator:
    settings = read(EstimateSettings, composed.plain("estimate") or {}, "estimate")
    return TokenEstimator(settings, _limit(composed), Spending())


def _limit(composed: Composed) -> int | None:
    """The most tokens of a reply; 0 for judges that are no language models: they have no price."""
    if "price" not in (composed.get("judge") or {}):
        return 0
    limit: int | None = composed.get("judge.max_output_tokens")
    return limit
