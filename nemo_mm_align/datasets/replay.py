"""Text that is trained on beside the images, so that a model keeps what it could: examples of any format that training reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import TrainingExample


def replay_examples(files: Sequence[Path], schema: AttributeSchema) -> Iterator[TrainingExample]:
    """Yield the examples of all files; `schema` tells attribute lines in their questions.

    Raises:
        UserError: a file that cannot be read, or one that holds something else than conversations without images and
            attributes to imitate.
    """
    for path in files:
        for example in read_examples(SourceSettings(path=str(path)), schema):
            flaw = _flaw(example)
            if flaw is not None:
                wanted = "replay takes conversations without images and attributes to imitate"
                raise UserError(f"{path}: {example.id} {flaw}; {wanted}.")
            assert isinstance(example, TrainingExample)
            yield example


def _flaw(example: object) -> str | None:
    if not isinstance(example, TrainingExample):
        return "is no conversation to imitate"
    if example.images:
        return "has images"
    return "asks for attributes" if example.attributes else None
