"""What can be known of a model to be offered before torch is imported: its folder, the layout, what it can be asked for."""

from __future__ import annotations

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.processes import this_process
from nemo_mm_align.inference.early import check_base, check_model
from nemo_mm_align.parallel.source import ModelSource
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.offer_settings import OfferSettings


def check_offer(settings: OfferSettings, rates: bool = False) -> ModelSource:
    """Check all that needs no tokenizer and no weight.

    Args:
        rates: the model rates answers by its head.

    Raises:
        UserError: what is wrong, with the remedy.
    """
    _ = settings.sampling  # is checked when it is made
    source, _ = check_model(settings.checkpoint, settings.parallel, settings.precision, settings.template, rates)
    replicas = settings.parallel.data_parallel_size(this_process().world_size)
    if replicas > 1:
        raise UserError(
            f"{this_process().world_size} ranks are {replicas} replicas of the model, and one is offered. Set "
            "tensor_model_parallel_size (or pipeline_model_parallel_size), or start as many, each for itself."
        )
    check_base(settings.base)
    source.image_processor()
    settings.check_asked(asked_schema(settings, source))
    positions = source.config.language.max_position_embeddings
    if (settings.length or 0) > positions:
        raise UserError(
            f"length={settings.length}: the model has {positions} positions. Give null for all of them, or fewer."
        )
    return source


def asked_schema(settings: OfferSettings, source: ModelSource) -> AttributeSchema | None:
    """Return the schema of what a model can be asked for: of its training, else the one that the user gives."""
    return source.asking or settings.attribute_schema
