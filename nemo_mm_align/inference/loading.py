"""A model folder made ready for inference: first what is small, and weights once the input is known to be good."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from nemo_mm_align.inference.early import check_model
from nemo_mm_align.inference.generator import Generator
from nemo_mm_align.inference.rating import Rater
from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.model.merged_adapters import merge_adapters as merge
from nemo_mm_align.parallel.source import ModelSource, build_from
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import Encoder

logger = logging.getLogger(__name__)

MergeAdapters = bool | Literal["auto"]


@dataclass(frozen=True)
class OpenedModel:
    """What a folder says of its model, before any weight is read.

    Attributes:
        source: the folder.
        encoder: tokenizer, template and schema.
        image_processor: of the vision tower.
        schema: of the checkpoint's training, else the one given.
        template: of the checkpoint's training, else the one given.
        parallel: the checked layout.
        engine: number format and kernels.
    """

    source: ModelSource
    encoder: Encoder
    image_processor: ImageProcessor
    schema: AttributeSchema | None
    template: ChatTemplate
    parallel: ParallelConfig
    engine: EngineConfig

    def answering_model(self, base: Path | None = None, merge_adapters: MergeAdapters = "auto") -> Llava:
        """Build this rank's part of the model and load its weights; process groups must be up.

        Args:
            base: where the base of a LoRA checkpoint lies now, if not where it lay in training.
            merge_adapters: whether adapters become part of the weights; ``auto``: in fp32, where only the order of sums
                changes. In 16 bits the sum is rounded anew, and what training computed with was not.
        """
        model = build_from(self.source, self.parallel, self.engine, base=base)
        if self.engine.precision == "fp32" if merge_adapters == "auto" else merge_adapters:
            merge(model)
        return model

    def generator(
        self,
        max_batch_tokens: int,
        base: Path | None = None,
        graphs: bool | None = None,
        merge_adapters: MergeAdapters = "auto",
    ) -> Generator:
        """Load `answering_model` to answer batches of prompts.

        Args:
            max_batch_tokens: see `Generator`.
            base, merge_adapters: see `answering_model`.
            graphs: see `Generator`.
        """
        model = self.answering_model(base, merge_adapters)
        return Generator(model, self.encoder, self.image_processor, max_batch_tokens, graphs)

    def rater(self, max_batch_tokens: int, base: Path | None = None) -> Rater:
        """Likewise of a model that rates answers by its head.

        Args:
            max_batch_tokens: see `Rater`.
            base: as for `answering_model`.
        """
        head = self.source.head
        assert head is not None
        model = build_from(self.source, self.parallel, self.engine, base=base, head=head)
        return Rater(model, self.encoder, self.image_processor, head.pooling, max_batch_tokens=max_batch_tokens)


def open_for_inference(
    checkpoint: str | Path,
    parallel: ParallelConfig,
    precision: str = "auto",
    template: Mapping[str, Any] | None = None,
    schema: AttributeSchema | None = None,
    rates: bool = False,
) -> OpenedModel:
    """Open a Hugging Face folder, a checkpoint, or a run whose newest checkpoint is meant, and check the layout.

    Args:
        checkpoint: the folder.
        parallel: layout, without sequence parallelism.
        precision: ``auto`` is bf16 on a GPU and fp32 on a CPU; else see `EngineConfig`.
        template: chat template for a Hugging Face folder; a checkpoint brings its own.
        schema: attribute schema where the checkpoint has none.
        rates: the model is to rate answers by its head, not to give any.

    Raises:
        UserError: no such model, one that cannot do what is asked of it, no template, a layout or precision that does not fit.
    """
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() else "fp32"
    source, chosen = check_model(checkpoint, parallel, precision, template, rates)
    engine = EngineConfig(precision=precision)
    schema = source.schema(schema)
    return OpenedModel(
        source, source.encoder(chosen, schema), source.image_processor(), schema, chosen, parallel, engine
    )
