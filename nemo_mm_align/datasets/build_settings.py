"""How a training set is built: one settings class for all methods; conf/method/*.yaml says which keys a method has.

The first four methods by the rules of Li, Lin and Pei (arXiv 2402.10884):

    sft            the judge's reference answer
    rejection      a candidate with a perfect score, one per prompt
    steerlm_paper  every candidate, its ratings as attributes
    preference     chosen: the best score; rejected: a random one at least a margin below
    best_worst     chosen: the best score; rejected: the worst
    all_pairs      each two candidates whose scores are at least a margin apart

Others:

    steerlm               a mixture: answers under their ratings, best answers without, text under random ones or none
    attribute_preference  pairs whose order depends on the attributes that are asked for
    labelled              every candidate that is clearly good or poor, with that as its label
    attribute_model       all candidates of a prompt with their mean ratings, to train a model that tells them
    steerlm2              all candidates of a prompt, and how likely each has the attributes that are asked for
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from nemo_mm_align.core.configuration import Count, NotNegative, Positive, Share, StrictModel
from nemo_mm_align.schema.attributes import AttributeSchema

Method = Literal[
    "sft",
    "rejection",
    "steerlm",
    "steerlm_paper",
    "preference",
    "best_worst",
    "all_pairs",
    "attribute_preference",
    "attribute_model",
    "labelled",
    "steerlm2",
]
(
    SFT,
    REJECTION,
    STEERLM,
    STEERLM_PAPER,
    PREFERENCE,
    BEST_WORST,
    ALL_PAIRS,
    ATTRIBUTE_PREFERENCE,
    ATTRIBUTE_MODEL,
    LABELLED,
    STEERLM2,
) = get_args(Method)
PAIR_METHODS = (PREFERENCE, BEST_WORST, ALL_PAIRS)
"""They give pairs by score."""
RANDOM_METHODS = (REJECTION, PREFERENCE, STEERLM, ATTRIBUTE_PREFERENCE, STEERLM2)
"""They draw by `BuildSettings.seed`, whatever else is set."""
Balance = Literal["counts", "root", "even"]


class BuildSettings(StrictModel):
    """How a training set is built.

    Args:
        name: the method.
        threshold: least score of an answer to imitate (rejection; None for the schema's perfect score), or of a desirable one
            (labelled; None for the schema's good score).
        undesirable_below: labelled: an answer of a lower score is undesirable; None for `threshold`. What lies between the two is
            left out.
        margin: pairs: least difference of the scores of chosen and rejected.
        strict: pairs: the difference must be greater than `margin`; a difference of exactly `margin` is not enough.
        max_pairs: all_pairs: at most so many pairs of a prompt, drawn at random; None for all.
        label_noise: pairs: share of pairs whose chosen and rejected are swapped (an ablation).
        rating_noise: share of prompts whose candidates get each other's ratings before anything is chosen by them, the best the
            worst one's (an ablation of whatever learns of ratings).
        length_bias: pairs: warn where the longer answer is chosen, or rejected, in more than this share of pairs.
        fraction: share of the examples that is kept, drawn by `seed`; a smaller share lies inside a larger one.
        repeats: attribute_model: files of further annotations of the same prompts and candidates, which are averaged.
        holdout: attribute_model: share of the prompts that is written to ``<out>.heldout.jsonl`` instead, drawn by `seed`.
        text_share: attribute_model: share of the prompts without images that is kept, drawn by `seed`; where they are many, a
            model learns less of what it has to look at.
        drop_truncated: leave out candidates that were cut at the token limit: they would teach to stop anywhere.
        seed: of the random choices.
        size: steerlm: rows; None for as many as there are usable candidates.
        least_score: of a good answer; None for the schema's good score.
        good_share: steerlm: of the rows that ask for attributes, those whose answer is a good one.
        unasked_share: of what asks nothing: of the rows that are not replayed, which have a prompt's best answer (steerlm);
            of the pairs (attribute_preference).
        balance: steerlm: how often a combination of asked values is drawn: as its answers are many, by the root of their
            number, or all alike.
        most_repeats: steerlm: an answer stands in at most so many rows of a kind.
        replay: steerlm: files of conversations without images, in any format that training reads.
        replay_annotated: answers to prompts without images are not to heed a line: the perfect ones are replayed (steerlm),
            the better ones by score are chosen (attribute_preference); their score alone weighs them (steerlm2).
        replay_share: steerlm: of all rows.
        replay_random_share: steerlm: of the replayed rows, those under a line of random values.
        lines: attribute_preference: pairs of a prompt.
        deviation_weight: attribute_preference: score that one step of |judged - asked| costs.
        flips: attribute_preference: whether pairs get a flip line.
        flip_score_gap: attribute_preference: by how much the score of the answer that a flip line prefers may be lower.
        concentration: steerlm2: of the Beta distribution around what was told of an answer, see `attribute_likelihood`.
        imply_quality: steerlm2: whether answers are to be perfect in what makes the score, too, where no line asks for it.
    """

    name: Method
    threshold: float | None = None
    undesirable_below: float | None = None
    margin: float = Field(default=2, gt=0)
    strict: bool = False
    max_pairs: int | None = Field(default=None, ge=1)
    label_noise: float = Field(default=0, ge=0, le=1)
    rating_noise: Share = 0.0
    length_bias: float = Field(default=0.6, ge=0.5, le=1)
    fraction: float = Field(default=1, gt=0, le=1)
    repeats: tuple[Path, ...] = ()
    holdout: float = Field(default=0, ge=0, lt=1)
    text_share: Share = 1.0
    drop_truncated: bool = True
    seed: int = 1234
    size: Count | None = None
    least_score: float | None = None
    good_share: Share = 0.85
    unasked_share: Share = 0.2
    balance: Balance = "root"
    most_repeats: Count = 4
    replay: list[Path] = []
    replay_annotated: bool = True
    replay_share: Annotated[float, Field(ge=0, lt=1)] = 0.35
    replay_random_share: Share = 0.65
    lines: Count = 2
    deviation_weight: Positive = 4.0
    flips: bool = True
    flip_score_gap: NotNegative = 2.0
    concentration: Positive = 24.0
    imply_quality: bool = True

    def least(self, schema: AttributeSchema) -> float:
        """Return the score from which an answer counts as a good one."""
        return schema.good_total if self.least_score is None else self.least_score

    @model_validator(mode="after")
    def _noise_needs_pairs(self) -> BuildSettings:
        if self.label_noise and self.name not in PAIR_METHODS:
            raise ValueError(
                f"label_noise swaps the answers of pairs; method={self.name} makes none by score. Methods that read ratings have "
                "rating_noise, which gives prompts wrong ones."
            )
        return self
