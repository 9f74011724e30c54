"""How a training set is built: one settings class for all methods; conf/method/*.yaml says which keys a method has.

The first four methods by the rules of Li, Lin and Pei (arXiv 2402.10884):

    sft         the judge's reference answer
    rejection   a candidate with a perfect score, one per prompt
    steerlm     every candidate, its ratings as attributes
    preference  chosen: the best score; rejected: a random one at least a margin below
    best_worst  chosen: the best score; rejected: the worst
    all_pairs   each two candidates whose scores are at least a margin apart

And all candidates of a prompt with their mean ratings, to train a model that tells them:

    attribute_model
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from nemo_mm_align.configuration import StrictModel

Method = Literal["sft", "rejection", "steerlm", "preference", "best_worst", "all_pairs", "attribute_model"]
SFT, REJECTION, STEERLM, PREFERENCE, BEST_WORST, ALL_PAIRS, ATTRIBUTE_MODEL = get_args(Method)
PAIR_METHODS = (PREFERENCE, BEST_WORST, ALL_PAIRS)
"""They give pairs; the others give single answers."""
RANDOM_METHODS = (REJECTION, PREFERENCE)
"""They draw among a prompt's candidates by `BuildSettings.seed`, whatever else is set."""


class BuildSettings(StrictModel):
    """How a training set is built.

    Args:
        name: the method.
        threshold: rejection: least score of an answer to imitate; None for the schema's perfect score.
        margin: pairs: least difference of the scores of chosen and rejected.
        strict: pairs: the difference must be greater than `margin`; a difference of exactly `margin` is not enough.
        max_pairs: all_pairs: at most so many pairs of a prompt, drawn at random; None for all.
        label_noise: pairs: share of pairs whose chosen and rejected are swapped (an ablation).
        length_bias: pairs: warn where the longer answer is chosen, or rejected, in more than this share of pairs.
        fraction: share of the examples that is kept, drawn by `seed`; a smaller share lies inside a larger one.
        repeats: attribute_model: files of further annotations of the same prompts and candidates, which are averaged.
        holdout: attribute_model: share of the prompts that is written to ``<out>.heldout.jsonl`` instead, drawn by `seed`.
        drop_truncated: leave out candidates that were cut at the token limit: they would teach to stop anywhere.
        seed: of the random choices.
    """

    name: Method
    threshold: float | None = None
    margin: float = Field(default=2, gt=0)
    strict: bool = False
    max_pairs: int | None = Field(default=None, ge=1)
    label_noise: float = Field(default=0, ge=0, le=1)
    length_bias: float = Field(default=0.6, ge=0.5, le=1)
    fraction: float = Field(default=1, gt=0, le=1)
    repeats: tuple[Path, ...] = ()
    holdout: float = Field(default=0, ge=0, lt=1)
    drop_truncated: bool = True
    seed: int = 1234

    @model_validator(mode="after")
    def _noise_needs_pairs(self) -> BuildSettings:
        if self.label_noise and self.name not in PAIR_METHODS:
            raise ValueError(f"label_noise swaps the answers of pairs; method={self.name} makes none")
        return self
