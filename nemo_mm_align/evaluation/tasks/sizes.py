"""How much published benchmarks ask: for estimates before their files are here. With the files at hand, these count.

Numbers of prompts are those of the published files; tokens are guesses from their texts at four characters a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class TaskSize:
    """One task.

    Args:
        prompts: that a model answers; each rotation of a question counts.
        source: where the number stands; ``counted in ...`` where it was counted.
        images: per prompt.
        turns: answers per prompt, one after the other.
        prompt_tokens: of a turn's text, its template included.
        answer_tokens: of a usual answer.
        most_tokens: at which an answer is cut.
        judge_input, judge_output: tokens of a question to a judge, and of its reply; 0 and 0: nobody is asked.
        calls_per_prompt: questions to a judge about the answers to a prompt; None: one per turn.
    """

    prompts: int
    source: str
    images: float = 1.0
    turns: int = 1
    prompt_tokens: int = 60
    answer_tokens: int = 200
    most_tokens: int = 1024
    judge_input: int = 0
    judge_output: int = 0
    calls_per_prompt: float | None = None

    @property
    def known(self) -> str:
        """How the number of prompts is known, in a word."""
        return "counted" if self.source.startswith("counted") else "published"

    @property
    def judge_calls(self) -> int:
        """Questions to a judge about one model's answers."""
        each = self.turns if self.calls_per_prompt is None else self.calls_per_prompt
        return round(self.prompts * each) if self.judge_input else 0


SIZES: Mapping[str, TaskSize] = MappingProxyType(
    {
        "mt_bench": TaskSize(
            80,
            "question.jsonl of lm-sys/FastChat, fastchat/llm_judge/data/mt_bench: 80 questions of two turns",
            images=0.0,
            turns=2,
            prompt_tokens=100,
            answer_tokens=250,
            judge_input=700,
            judge_output=200,
        ),
        "alpaca_eval": TaskSize(
            805,
            "alpaca_eval.json of tatsu-lab/alpaca_eval (Hugging Face): 805 instructions",
            images=0.0,
            answer_tokens=270,
            judge_input=1000,
            judge_output=1,
        ),
        "mm_vet": TaskSize(
            218,
            "lmms-lab/MMVet (Hugging Face), split test: 218 rows",
            answer_tokens=80,
            judge_input=900,
            judge_output=5,
        ),
        "llava_bench": TaskSize(
            60,
            "card of lmms-lab/llava-bench-in-the-wild (Hugging Face): 60 examples",
            judge_input=900,
            judge_output=250,
        ),
        "pope": TaskSize(
            8910,
            "output/coco of RUCAIBox/POPE: 2,910 random, 3,000 popular, 3,000 adversarial (9,000 in lmms-lab/POPE)",
            prompt_tokens=50,
            answer_tokens=2,
            most_tokens=128,
        ),
        "mmbench": TaskSize(
            4377,
            "card of lmms-lab/MMBench_EN (Hugging Face), split dev: 4,377 rows, which are the rotations of 1,164 questions "
            "(README of open-compass/mmbench)",
            prompt_tokens=110,
            answer_tokens=2,
        ),
        "scienceqa": TaskSize(
            4241,
            "card of derek-thomas/ScienceQA (Hugging Face), split test: 4,241 examples; that 2,017 of them have an image is the "
            "field's usual figure (lmms-lab/ScienceQA shows 4.11k for validation and test together)",
            images=2017 / 4241,
            prompt_tokens=130,
            answer_tokens=2,
        ),
        "ifeval": TaskSize(
            541,
            "input_data.jsonl of google-research/google-research, instruction_following_eval/data: 541 prompts",
            images=0.0,
            prompt_tokens=100,
            answer_tokens=300,
        ),
    }
)
"""By the name of the task."""
