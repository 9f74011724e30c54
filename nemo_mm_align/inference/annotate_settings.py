"""What the user can set for `annotate`, and what can be known of it before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import StrictBool, model_validator

from nemo_mm_align.core.configuration import Count, Seed, read
from nemo_mm_align.inference.early import check_base, check_model, reserve_output
from nemo_mm_align.inference.model_settings import ModelSettings
from nemo_mm_align.labeling.outputs import check_inputs
from nemo_mm_align.labeling.provenance import settings_path

if TYPE_CHECKING:
    from nemo_mm_align.inference.loading import OpenedModel

Values = Literal["rounded", "real"]


class AnnotateSettings(ModelSettings):
    """Settings of the stage; the comments of ``conf/annotate.yaml`` say what each means."""

    prompts: Path
    candidates: Path
    out: Path
    add_image_placeholders: bool = False
    values: Values
    shuffle_images: StrictBool
    seed: Seed
    max_batch_tokens: Count

    @model_validator(mode="after")
    def _nothing_is_overwritten(self) -> AnnotateSettings:
        paths = [path.resolve() for path in (self.prompts, self.candidates, self.out, settings_path(self.out))]
        if len(set(paths)) < len(paths):
            raise ValueError(f"prompts, candidates and out must be different files; out is {self.out}")
        return self

    @property
    def shuffled_by(self) -> int | None:
        """The seed by which prompts are shown other pictures; None where each is shown its own."""
        return self.seed if self.shuffle_images else None

    def open(self) -> OpenedModel:
        """Open the model's folder and check the layout, without reading weights."""
        from nemo_mm_align.inference.loading import open_for_inference  # torch: settings are checked without it

        return open_for_inference(self.checkpoint, self.parallel, self.precision, self.template, rates=True)


def check_early(values: Mapping[str, Any]) -> AnnotateSettings:
    """Read the settings and check all of them that needs no tokenizer and no weight.

    The file of annotations is this process's from then on.

    Args:
        values: ``conf/annotate.yaml``, composed, as plain values.

    Raises:
        UserError: what is wrong, with the remedy.
    """
    settings = read(AnnotateSettings, values)
    source, _ = check_model(settings.checkpoint, settings.parallel, settings.precision, settings.template, rates=True)
    check_base(settings.base)
    source.image_processor()
    check_inputs((settings.prompts, settings.candidates))
    reserve_output(settings.out)
    return settings
