"""What makes a base fit to be aligned, counted from judged answers, and how much of each is enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nemo_mm_align.core.configuration import StrictModel
from nemo_mm_align.miniature.judged import JudgedAnswer

QUALITY = ("helpfulness", "correctness", "coherence")
"""Attributes that make the score, 0 to 12."""

LEVELS = 5
_BEST, _RIGHT = 4, 3
"""Correctness of a fully correct answer; helpfulness from which on what was asked is answered rightly."""

_ABOUT_ONE = ("exist", "colour", "shape", "value")
"""Kinds of question about one thing, which may not be there."""

Drawn = Mapping[str, Sequence[JudgedAnswer]]
"""Sampled answers of each prompt."""


class Measured(StrictModel):
    """What a base shows on one split; shares unless said otherwise.

    Args:
        yes_no: greedy answers to yes/no questions whose yes or no is right.
        yes_no_by: the same by ``source kind`` and, for questions about one thing, ``absent`` or ``present``.
        right_by: greedy answers that answer rightly what was asked, whatever else they say, grouped likewise.
        correct_by: greedy answers that are fully correct, grouped likewise.
        by_source: the same by source.
        pass_1, pass_4: sampled answers that are fully correct; prompts with at least one among their samples.
        score, sampled_score: helpfulness + correctness + coherence of greedy and of sampled answers, mean of 0 to 12.
        text_before, text, sampled_text: text instructions answered rightly, before visual tuning (None: not measured) and
            after it, greedy and sampled.
        styles: samples of the training prompts by verbosity (row) and complexity (column), counts.
        varied_verbosity, varied_complexity: training prompts whose samples have at least three levels.
    """

    yes_no: float
    yes_no_by: dict[str, float]
    right_by: dict[str, float]
    correct_by: dict[str, float]
    by_source: dict[str, float]
    pass_1: float
    pass_4: float
    score: float
    sampled_score: float
    text_before: float | None
    text: float
    sampled_text: float
    styles: list[list[int]]
    varied_verbosity: float
    varied_complexity: float


def measure(
    greedy: Sequence[JudgedAnswer], drawn: Drawn, train_drawn: Drawn, text_before: Sequence[JudgedAnswer]
) -> Measured:
    """Count; `greedy` and `drawn` answer the same prompts, `train_drawn` those that alignment will learn from."""
    pictures, texts = _split(greedy)
    yes_no = [answer for answer in pictures if answer.yes_no_correct is not None]
    sampled_pictures, sampled_texts = _split([answer for answers in drawn.values() for answer in answers])
    by_prompt = [[_correct(answer) for answer in answers] for answers in drawn.values() if answers[0].kind == "image"]
    train = [answers for answers in train_drawn.values() if answers[0].kind == "image"]
    return Measured(
        yes_no=_share([bool(answer.yes_no_correct) for answer in yes_no]),
        yes_no_by=_grouped(yes_no, _question, lambda answer: bool(answer.yes_no_correct)),
        right_by=_grouped(pictures, _question, lambda answer: answer.ratings["helpfulness"] >= _RIGHT),
        correct_by=_grouped(pictures, _question, _correct),
        by_source=_grouped(pictures, lambda answer: answer.source, _correct),
        pass_1=_share([correct for one in by_prompt for correct in one]),
        pass_4=_share([any(one) for one in by_prompt]),
        score=_share([_score(answer) for answer in pictures]),
        sampled_score=_share([_score(answer) for answer in sampled_pictures]),
        text_before=_share([bool(answer.text_ok) for answer in text_before]) if text_before else None,
        text=_share([bool(answer.text_ok) for answer in texts]),
        sampled_text=_share([bool(answer.text_ok) for answer in sampled_texts]),
        styles=style_table([answer for answers in train for answer in answers]),
        varied_verbosity=_varied(train, "verbosity"),
        varied_complexity=_varied(train, "complexity"),
    )


def judge(measured: Measured) -> dict[str, bool]:
    """Return which criteria are met, by what they ask for."""
    fell = None if measured.text_before is None else round(measured.text_before - measured.text, 4)
    return {
        "yes/no accuracy at least 0.75": measured.yes_no >= 0.75,
        "pass@4 at least 0.15 above pass@1": round(measured.pass_4 - measured.pass_1, 4) >= 0.15,
        "text score at least 0.1 below that before visual tuning": fell is not None and fell >= 0.1,
        "text score from 0.75 to 0.85": 0.75 <= measured.text <= 0.85,
        "score from 8 to 10": 8 <= measured.score <= 10,
    }


def style_table(answers: Sequence[JudgedAnswer]) -> list[list[int]]:
    """Count answers by verbosity (row) and complexity (column), 0 to 4 each."""
    table = [[0] * LEVELS for _ in range(LEVELS)]
    for answer in answers:
        table[int(answer.ratings["verbosity"])][int(answer.ratings["complexity"])] += 1
    return table


def _split(answers: Sequence[JudgedAnswer]) -> tuple[list[JudgedAnswer], list[JudgedAnswer]]:
    return [answer for answer in answers if answer.kind == "image"], [a for a in answers if a.kind == "text"]


def _share(values: Sequence[float]) -> float:
    """Mean, to four digits; 0 of nothing."""
    return round(sum(values) / max(1, len(values)), 4)


def _correct(answer: JudgedAnswer) -> bool:
    return answer.ratings["correctness"] == _BEST


def _score(answer: JudgedAnswer) -> float:
    return sum(answer.ratings[name] for name in QUALITY)


def _question(answer: JudgedAnswer) -> str:
    presence = (" absent" if answer.absent else " present") if answer.question_type in _ABOUT_ONE else ""
    return f"{answer.source} {answer.question_type}{presence}"


def _grouped(
    answers: Sequence[JudgedAnswer], group: Callable[[JudgedAnswer], str], value: Callable[[JudgedAnswer], float]
) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for answer in answers:
        groups.setdefault(group(answer), []).append(value(answer))
    return {name: _share(groups[name]) for name in sorted(groups)}


def _varied(prompts: Sequence[Sequence[JudgedAnswer]], attribute: str) -> float:
    return _share([len({answer.ratings[attribute] for answer in answers}) >= 3 for answers in prompts])
