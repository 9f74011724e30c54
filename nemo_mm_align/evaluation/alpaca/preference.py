"""AlpacaEval's question to the judge, and the preference that its reply says.

Read from tatsu-lab/alpaca_eval, commit cd543a149df89434d8a54582c0151c0b945c3d20: src/alpaca_eval/annotators/pairwise_evaluator.py
(the order), completion_parsers.py (`logprob_parser`), utils.py (`make_prompts`, `prompt_to_chatml`) and
evaluators_configs/weighted_alpaca_eval_gpt4_turbo. Preferences run from 1 (the baseline is better) to 2 (ours is); 1.5 is a tie.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import Answer

FIRST, SECOND = "m", "M"
"""What the template calls the answers, in the order in which they stand."""

PREFERENCE, BY_LETTER = "preference", "by_letter"
TIE = 1.5

PLACES = ("instruction", "output_1", "output_2")
_PLACE = re.compile(r"\{(" + "|".join(PLACES) + r")\}")
_TURN = re.compile(r"<\|im_start\|>(.*?)\n(.*?)<\|im_end\|>", re.DOTALL)
_LETTER = re.compile(r"(?<![\w'’])[mM](?![\w'’])")


@dataclass(frozen=True)
class PromptTemplate:
    """A judge prompt: what stands in its system turn and in its user's, with the places of `PLACES`."""

    system: str
    user: str

    def filled(self, instruction: str, first: str, second: str) -> tuple[str, str]:
        """Return both turns with their places filled, in one pass: what stands in an answer fills no place."""
        values = dict(zip(PLACES, (instruction, first, second), strict=True))
        system, user = (_PLACE.sub(lambda place: values[place[1]], text) for text in (self.system, self.user))
        return system, user


def read_template(path: Path) -> PromptTemplate:
    """Read a judge prompt: ChatML with a user's turn and perhaps a system turn before it, or plain text as the user's.

    Raises:
        UserError: there is no such file, it lacks a place, or it has other turns.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Give the judge prompt, alpaca_eval_clf.txt.") from None
    if missing := [place for place in PLACES if f"{{{place}}}" not in text]:
        raise UserError(
            f"{path}: has no {', '.join(f'{{{place}}}' for place in missing)}; a judge prompt holds all three."
        )
    if "<|im_start|>" not in text:
        return PromptTemplate("", text)
    turns = [(role.strip(), content.strip()) for role, content in _TURN.findall(text)]
    if [role for role, _ in turns] not in (["user"], ["system", "user"]):
        raise UserError(
            f"{path}: its turns are {', '.join(role for role, _ in turns) or 'not closed'}; give system, user."
        )
    system = turns[0][1] if len(turns) == 2 else ""
    return PromptTemplate(system, turns[-1][1])


def is_switched(instruction: str, seed: int = 0) -> bool:
    """Whether our answer stands first for this instruction: the package's own draw, seeded by the instruction's text."""
    return random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True], k=1)[0]


def read_preference(answer: Answer, switched: bool) -> Mapping[str, float]:
    """Return the preference of a reply, and whether it rests on the letter alone (1) or on token probabilities (0).

    With p of the first token, 1 + p(M) / (p(m) + p(M)) is the preference for the answer that stands second; a letter that is not
    among the alternatives has probability 0. Where ours stands first it is 3 less that.

    Raises:
        CallFailure: ``unparsable``: neither letter is among the alternatives, or the reply names not one of them.
    """
    told = bool(answer.top_logprobs)
    shown = _of_probabilities(answer.top_logprobs) if told else _of_letter(answer.text)
    return {PREFERENCE: 3 - shown if switched else shown, BY_LETTER: float(not told)}


def _of_probabilities(top_logprobs: Sequence[tuple[str, float]]) -> float:
    known = {token: value for token, value in top_logprobs if token in (FIRST, SECOND)}
    if not known:
        tokens = ", ".join(repr(token) for token, _ in top_logprobs)
        raise CallFailure("unparsable", f"neither m nor M is among the most likely tokens: {tokens}")
    if len(known) == 1:
        return 2.0 if SECOND in known else 1.0
    return 2 - 1 / (1 + math.exp(min(known[SECOND] - known[FIRST], 700)))


def _of_letter(text: str) -> float:
    letters = set(_LETTER.findall(text))
    if len(letters) != 1:
        raise CallFailure("unparsable", f"not one of m and M in {text[:60]!r}", text)
    return 2.0 if SECOND in letters else 1.0
