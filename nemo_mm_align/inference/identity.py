"""What the answers of a file depend on, in words and hashes that its settings file holds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nemo_mm_align.inference.loading import OpenedModel
from nemo_mm_align.inference.settings import InferenceSettings
from nemo_mm_align.prompts import Encoder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def identity(settings: InferenceSettings, opened: OpenedModel, prompts: Path) -> dict[str, Any]:
    """Return what all answers depend on; the layout and the batch size are not among it, pictures are each answer's own."""
    schema, drawn = opened.schema if settings.asks else None, settings.drawn(opened.schema)
    return {
        **settings.sampling.to_dict(),
        "checkpoint": opened.source.fingerprint(),
        "precision": opened.engine.precision,
        "template": f"{opened.template.name} {_short(opened.template.model_dump_json().encode())}",
        "attributes": json.dumps([schema.fingerprint, *settings.assignments(schema)]) if schema else None,
        **({"draw_from": _short(json.dumps(drawn.combinations).encode())} if drawn else {}),
        "prompts": _short(prompts.read_bytes()),
        "model": _short(json.dumps(opened.source.config.to_dict(), sort_keys=True).encode()),
        "tokenizer": _tokenizer(opened.source.tokenizer_folder, opened.encoder),
        "image_processor": _short(opened.image_processor.model_dump_json().encode()),
        **({"add_image_placeholders": True} if settings.add_image_placeholders else {}),
    }


def _tokenizer(folder: Path, encoder: Encoder) -> str:
    """Hash of the tokenizer's files and of the special ids that its settings choose."""
    files = [path.read_bytes() for name in TOKENIZER_FILES if (path := folder / name).is_file()]
    special = (encoder.stop_id, encoder.tokenizer.eos_token_id, encoder.tokenizer.bos_token_id, encoder.add_bos)
    return _short(b"".join(hashlib.sha256(data).digest() for data in files) + repr(special).encode())


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
