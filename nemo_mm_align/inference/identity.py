"""What the answers of a file depend on, in words and hashes that its settings file holds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nemo_mm_align.core.hashing import hash_bytes
from nemo_mm_align.inference.drawn import DrawnAttributes
from nemo_mm_align.inference.loading import OpenedModel
from nemo_mm_align.inference.settings import InferenceSettings
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.prompts import Encoder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def identity(
    settings: InferenceSettings, opened: OpenedModel, prompts: Path, drawn: DrawnAttributes | None
) -> dict[str, Any]:
    """Return what all answers depend on; the layout and the batch size are not among it, pictures are each answer's own."""
    schema = opened.schema if settings.asks else None
    return {
        **settings.sampling.to_dict(),
        **model_facts(opened),
        "attributes": json.dumps([*asking(schema), *settings.assignments(schema)]) if schema else None,
        **({"draw_from": hash_bytes(json.dumps(drawn.combinations).encode())} if drawn else {}),
        "prompts": hash_bytes(prompts.read_bytes()),
        **({"add_image_placeholders": True} if settings.add_image_placeholders else {}),
    }


def asking(schema: AttributeSchema) -> list[Any]:
    """Return the schema, and how it asks where that is its own: its fingerprint is of what a judge goes by."""
    own = schema.steered is not None or schema.steering is not None
    return [schema.fingerprint, *([[schema.steering_head, [item.name for item in schema.asked]]] if own else [])]


def model_facts(opened: OpenedModel) -> dict[str, str]:
    """Return what tells a model, with all that it reads prompts and pictures by, from any other."""
    return {
        "checkpoint": opened.source.fingerprint(),
        "precision": opened.engine.precision,
        "template": f"{opened.template.name} {hash_bytes(opened.template.model_dump_json().encode())}",
        "model": hash_bytes(json.dumps(opened.source.config.to_dict(), sort_keys=True).encode()),
        "tokenizer": _tokenizer(opened.source.tokenizer_folder, opened.encoder),
        "image_processor": hash_bytes(opened.image_processor.model_dump_json().encode()),
    }


def rating_facts(opened: OpenedModel, shuffled_by: int | None = None) -> dict[str, Any]:
    """Return what the ratings of a model with a head depend on, beside what is rated.

    Args:
        shuffled_by: the seed by which each prompt was shown another one's pictures; None where it was shown its own.
    """
    head = opened.source.head
    assert head is not None
    return {
        **model_facts(opened),
        "head": head.to_dict(),
        **({} if shuffled_by is None else {"shuffled_images": shuffled_by}),
    }


def _tokenizer(folder: Path, encoder: Encoder) -> str:
    """Hash of the tokenizer's files and of the special ids that its settings choose."""
    files = [path.read_bytes() for name in TOKENIZER_FILES if (path := folder / name).is_file()]
    special = (encoder.stop_id, encoder.tokenizer.eos_token_id, encoder.tokenizer.bos_token_id, encoder.add_bos)
    return hash_bytes(b"".join(hashlib.sha256(data).digest() for data in files) + repr(special).encode())
