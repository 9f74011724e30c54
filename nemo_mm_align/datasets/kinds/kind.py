"""What a training sample is made of: the base of all kinds."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.schema.examples import Example
from nemo_mm_align.schema.prompts import Encoder

logger = logging.getLogger(__name__)


class SampleKind(ABC):
    """What a recipe trains on.

    Attributes:
        title: of such data, in words; what a message names them by.
        example: the record that a sample is made of, or several of which each will do.
        roles: that a sample's sequences can have, in order.
        sequences: of a usual sample, which memory and time are estimated from; 0 stands for one per role.
        apart: of these, those that see the images otherwise than the ones before them, each in a row of its own.
        attributed: prompts carry the attributes that are asked for, so that the model can be steered.
    """

    title: str
    example: type[Example] | tuple[type[Example], ...]
    roles: tuple[str, ...]
    sequences: int = 0
    apart: int = 0
    attributed: bool = False

    @property
    def usual_sequences(self) -> int:
        """Sequences of a usual sample."""
        return self.sequences or len(self.roles)

    def lacks(self, examples: Sequence[Example]) -> str | None:
        """Return what a set of the right records lacks, in words; None where it has all.

        Where prompts are to ask for attributes, examples that all ask for nothing teach no steering.
        """
        if not self.attributed:
            return None
        asking = sum(getattr(example, "attributes", None) is not None for example in examples)
        if not asking:
            return "examples with attributes; none of them has any."
        logger.info("%d of %d examples ask for attributes", asking, len(examples))
        return None

    @abstractmethod
    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """Tokenise an example; raise `UserError` where its text cannot be."""

    def flaw(self, sample: Sample) -> tuple[str, str] | None:
        """Return why nothing can be learned from a sample, as a short reason and a sentence; None where something can."""
        return None


def image_paths(example: Example) -> list[Path]:
    """Return where an example's images lie."""
    return [Path(path) for path in example.images]
