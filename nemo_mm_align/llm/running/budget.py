"""A budget in tokens and in money: no call is made whose worst case would not fit any more."""

from __future__ import annotations

import threading

from pydantic import Field

from nemo_mm_align.core.configuration import StrictModel
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.price import Price
from nemo_mm_align.llm.running.spending import Tokens

POLL_S = 0.2


class BudgetSettings(StrictModel):
    """Where a run stops spending; None for no limit.

    What earlier runs spent on the same ledger counts too, as far as they asked with the same settings: what was asked
    otherwise may have had another price.

    Args:
        max_cost: in the currency of the judge's price.
        max_tokens: of questions and replies together.
    """

    max_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, gt=0)

    @property
    def is_set(self) -> bool:
        """Whether there is any limit."""
        return self.max_cost is not None or self.max_tokens is not None

    def check(self, price: Price | None) -> None:
        """Raise `UserError` for a limit in money where the judge has no price."""
        if self.max_cost is not None and price is None:
            raise UserError(
                f"budget.max_cost={self.max_cost:g} needs the judge's price. Set judge.price.input_per_million=... and "
                "judge.price.output_per_million=... (see the service's price list), or use budget.max_tokens."
            )


class Budget:
    """What is spent, and what the calls in flight may still cost. Safe for several threads.

    Args:
        settings: the limits.
        price: needed for a limit in money.
        spent: tokens of earlier runs.

    Raises:
        UserError: a limit in money without a price.
    """

    def __init__(self, settings: BudgetSettings, price: Price | None, spent: Tokens) -> None:
        settings.check(price)
        self.settings, self.price, self.spent_before, self.spent_now = settings, price, spent, Tokens()
        self._reserved = Tokens()
        self._changed = threading.Condition()

    @property
    def spent(self) -> Tokens:
        """What earlier runs and this one spent."""
        return self.spent_before + self.spent_now

    def reserve(self, worst: Tokens, stop: threading.Event) -> bool:
        """Set aside what a call may cost at most, waiting for calls in flight to turn out cheaper where it must.

        False where it does not fit although nothing is in flight: the budget is used up; also where `stop` was set.
        """
        with self._changed:
            while not stop.is_set():
                if self._fits(self.spent + self._reserved + worst):
                    self._reserved += worst
                    return True
                if self._reserved == Tokens():
                    return False
                self._changed.wait(POLL_S)
        return False

    def settle(self, worst: Tokens, actual: Tokens) -> None:
        """Replace what was set aside by what the call cost."""
        with self._changed:
            self._reserved -= worst
            self.spent_now += actual
            self._changed.notify_all()

    def describe(self) -> str:
        """Return what is spent, in tokens and money, of what is allowed."""
        limits = [f"{self.settings.max_tokens:,} tokens"] if self.settings.max_tokens is not None else []
        if self.price is not None and self.settings.max_cost is not None:
            limits.append(money(self.settings.max_cost, self.price))
        return describe_tokens(self.spent, self.price) + (f", of a budget of {' and '.join(limits)}" if limits else "")

    def _fits(self, tokens: Tokens) -> bool:
        if self.settings.max_tokens is not None and tokens.total > self.settings.max_tokens:
            return False
        if self.settings.max_cost is None or self.price is None:
            return True
        return self.price.cost(tokens.input, tokens.output) <= self.settings.max_cost


def describe_tokens(tokens: Tokens, price: Price | None) -> str:
    """Return ``12,300 input and 4,100 output tokens, 0.0042 USD``; without a price the tokens alone."""
    text = f"{tokens.input:,} input and {tokens.output:,} output tokens"
    return text if price is None else f"{text}, {money(price.cost(tokens.input, tokens.output), price)}"


def money(amount: float, price: Price) -> str:
    """Return an amount with its currency; small ones with more digits."""
    return f"{amount:,.2f} {price.currency}" if amount >= 1 else f"{amount:.3g} {price.currency}"
