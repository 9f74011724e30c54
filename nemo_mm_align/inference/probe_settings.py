"""What the user can set for the probe, and what can be known of it before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nemo_mm_align.core.configuration import Count, Positive, Seed, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.early import check_base, check_model, reserve_output
from nemo_mm_align.inference.model_settings import ModelSettings
from nemo_mm_align.model.head_config import Pooling
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import RatedAnswers
from nemo_mm_align.schema.records import read_records


class ProbeSettings(ModelSettings):
    """What ``conf/probe.yaml`` holds; the comments there say what each means."""

    train: Path
    heldout: Path
    out: Path
    pooling: Pooling
    alphas: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=100)]
    folds: Annotated[int, Field(ge=2, le=1000)]
    seed: Seed
    max_batch_tokens: Count = 32768
    attribute_schema: AttributeSchema


def check_early(values: Mapping[str, Any]) -> ProbeSettings:
    """Read the settings and check all of them that needs no tokenizer and no weight; the output is this process's then.

    Raises:
        UserError: what is wrong, with the remedy.
    """
    settings = read(ProbeSettings, values)
    source, _ = check_model(settings.checkpoint, settings.parallel, settings.precision, settings.template)
    source.image_processor()
    check_base(settings.base)
    for path in (settings.train, settings.heldout):
        next(read_records(path, RatedAnswers))
        if settings.out.resolve() == path.resolve():
            raise UserError(f"out={path} is one of the files that are read; give another name.")
    reserve_output(settings.out)
    return settings
