"""A model that is offered: its folder opened, its decoding session, and what clients may ask of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.inference.engine import Engine
from nemo_mm_align.inference.image_features import IMAGE_BYTES
from nemo_mm_align.inference.loading import OpenedModel, open_for_inference
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.serving.cache_room import slots_for
from nemo_mm_align.serving.offer_checks import asked_schema
from nemo_mm_align.serving.offer_settings import OfferSettings
from nemo_mm_align.serving.pictures import PictureLimits, PictureStore
from nemo_mm_align.serving.rating_engine import RatingEngine
from nemo_mm_align.serving.served_model import Limits, ServedModel


def open_offered(settings: OfferSettings, rates: bool = False) -> OpenedModel:
    """Open the folder; what the model was not trained to be asked, nobody is offered.

    Args:
        rates: it rates answers by its head.
    """
    opened = open_for_inference(
        settings.checkpoint, settings.parallel, settings.precision, settings.template, settings.attribute_schema, rates
    )
    opened.encoder.schema = asked_schema(settings, opened.source)
    return opened


def decoding_session(
    settings: OfferSettings, opened: OpenedModel, embedding_bytes: int = IMAGE_BYTES
) -> DecodingSession:
    """Build this rank's part of the model, load its weights, and return its session; process groups must be up.

    Args:
        embedding_bytes: of images' embeddings that are kept.

    Raises:
        UserError: there is no memory for keys and values of so many answers.
    """
    model = opened.answering_model(settings.base, settings.merge_adapters)
    length = settings.length or opened.source.config.language.max_position_embeddings
    slots = slots_for(model, length, settings.kept, settings.slots)
    decode, graphs = opened.encoder.decode_whole, settings.cuda_graphs
    return DecodingSession(model, slots, length, decode, graphs, settings.kept, embedding_bytes)


def served_model(
    settings: OfferSettings,
    opened: OpenedModel,
    engine: Engine | RatingEngine,
    pictures: PictureLimits | None = None,
    limits: Limits | None = None,
    aliases: Mapping[str, Mapping[str, Any] | None] | None = None,
) -> ServedModel:
    """Return the model as its clients see it.

    Args:
        pictures, limits: of a request.
        aliases: see `ServedModel`.
    """
    return ServedModel(
        name=settings.served_name,
        encoder=opened.encoder,
        pictures=PictureStore(opened.image_processor, pictures),
        length=engine.length,
        slots=engine.slots,
        created=int(time.time()),
        asks_by_default=settings.asks(opened.source.asking is not None),
        default_attributes=settings.attributes,
        aliases=aliases or {},
        sampling=settings.sampling,
        limits=limits or Limits(),
    )
