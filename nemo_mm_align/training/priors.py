"""What is said of log-probs without attributes, where a model that is asked for them tells both."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.parallel.source import ModelSource
from nemo_mm_align.schema.prompts import EncodedSequence

logger = logging.getLogger(__name__)


def tell_priors(samples: Sequence[Sample], source: ModelSource) -> None:
    """Log how likely the reference finds the answers with and without the line; warn where it knows of no line.

    Args:
        samples: with their reference log-probs. Those without prior sequences are passed over.
        source: the reference.
    """
    asked, unasked, tokens, unasked_tokens = 0.0, 0.0, 0, 0
    for sample in samples:
        if sample.prior_log_probs is None:
            continue
        asked, unasked = asked + sum(sample.reference_log_probs or ()), unasked + sum(sample.prior_log_probs)
        tokens += _tokens(sample.sequences)
        unasked_tokens += _tokens(sample.prior_sequences)
    if not tokens:
        return
    logger.info(
        "log-probs of the answers per token before training: %.3f under what is asked for, %.3f where nothing is. The latter "
        "stand for P(answer | prompt): they are worth what the model learned of prompts that ask for nothing",
        asked / tokens,
        unasked / unasked_tokens,
    )
    if source.asking is None:
        logger.warning(
            "%s is not known to have been trained to be asked for attributes: its answers are weighed against log-probs under a "
            "line that it may never have seen. Start from a model that was (docs/steering.md)",
            source.folder,
        )


def _tokens(sequences: Sequence[EncodedSequence]) -> int:
    return sum(sequence.num_answer_tokens for sequence in sequences)
