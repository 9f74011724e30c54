"""AlpacaEval's figures: what they are called, and what an answer contributes to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_mm_align.evaluation.alpaca import regression
from nemo_mm_align.evaluation.alpaca.files import Output
from nemo_mm_align.evaluation.alpaca.preference import BY_LETTER, TIE
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.tasks.rated import WORDS

LC, WIN, DISCRETE = "lc_win_rate", "win_rate", "discrete_win_rate"
SAME = Measure(
    name="same_in_both_orders",
    label="Same in both orders",
    share=True,
    better=None,
    about="Same in both orders: answers whose preference lies on the same side whichever answer stands first.",
)
LETTER = Measure(
    name=BY_LETTER,
    label="By the letter alone",
    share=True,
    better=None,
    about="By the letter alone: the judge gave no token probabilities, so that its choice counts 0 or 100.",
)
CHARACTERS = Measure(name="length_characters", label="Characters", better=None, digits=0)
BY_DATASET = Measure(name="win_rate_by_dataset", label="Win rate by data set", grouped=True, digits=1)


def measures(lc_label: str, baseline: str, both_orders: bool) -> tuple[Measure, ...]:
    """Return the measures, the length-controlled win rate first.

    Args:
        lc_label: what the length-controlled win rate is called, see `Variant.label`.
        baseline: whose answers ours are compared with.
    """
    how = "mean preference in both orders" if both_orders else "mean preference, the order drawn by the instruction"
    against = f"against {baseline}, in per cent"
    equal = "what the win rate would be if both answers were equally long, by AlpacaEval's regression"
    return (
        Measure(name=LC, label=lc_label, digits=1, about=f"{lc_label}: {equal}; {against}."),
        Measure(name=WIN, label="Win rate", digits=1, about=f"Win rate: {how}; {against}."),
        Measure(
            name=DISCRETE, label="Wins", digits=1, about="Wins: answers that are preferred, a tie being half of one."
        ),
        *(SAME, LETTER, WORDS, CHARACTERS, BY_DATASET),
    )


@dataclass(frozen=True)
class Comparison:
    """What a judge said of one pair of answers.

    Args:
        item: the baseline's answer.
        text: ours.
        preferences: 1 (baseline) to 2 (ours), one per order that was asked.
        by_letter: whether any of them rests on a letter alone.
    """

    item: Output
    text: str
    preferences: Sequence[float]
    by_letter: bool = False

    @property
    def preference(self) -> float:
        """The mean over the orders."""
        return sum(self.preferences) / len(self.preferences)

    def values(self) -> dict[str, float]:
        """Return the values of the measures that are means."""
        preference = self.preference
        win = 100 * (preference - 1)
        values = {
            WIN: win,
            DISCRETE: 50.0 * (1 + _side(preference)),
            LETTER.name: float(self.by_letter),
            WORDS.name: float(len(self.text.split())),
            CHARACTERS.name: float(len(self.text)),
        }
        if len(self.preferences) > 1:
            values[SAME.name] = float(len({_side(one) for one in self.preferences}) == 1)
        return values | ({f"{BY_DATASET.name}.{self.item.dataset}": win} if self.item.dataset else {})

    def columns(self, place: int, difficulty: float | None) -> dict[str, float]:
        """Return what the regression is computed of.

        Args:
            place: of the instruction in its set.
            difficulty: of the instruction, where the regression knows one.
        """
        columns = {
            regression.PREFERENCE: self.preference - 1,
            regression.DIFFERENCE: float(len(self.item.output) - len(self.text)),
            regression.POSITION: float(place),
        }
        return columns if difficulty is None else {**columns, regression.DIFFICULTY: difficulty}


def _side(preference: float) -> int:
    return (preference > TIE) - (preference < TIE)


def without(values: Mapping[str, float], name: str) -> dict[str, float]:
    """Return values but for one."""
    return {key: value for key, value in values.items() if key != name}
