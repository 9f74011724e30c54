"""A served model without weights, and bodies for it."""

from __future__ import annotations

import base64
import functools
import io
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.serving.pictures import PictureLimits, PictureStore
from nemo_mm_align.serving.served_model import ServedModel
from tests.unit.toy_tokenizers import byte_level

CONF = Path(__file__).resolve().parents[3] / "conf"
TEMPLATES = sorted(path.stem for path in (CONF / "template").glob("*.yaml"))
TOKENS_PER_IMAGE = 4


def schema(name: str = "helpsteer") -> AttributeSchema:
    """A shipped one."""
    return AttributeSchema.model_validate(yaml.safe_load((CONF / f"attribute_schema/{name}.yaml").read_text()))


def served(
    template: str = "vicuna_v1",
    attributes: AttributeSchema | None = None,
    picture_limits: PictureLimits | None = None,
    **more: Any,
) -> ServedModel:
    """A model of 3000 positions that answers 8 at once."""
    tokenizer = byte_level()
    chosen = ChatTemplate.from_config(yaml.safe_load((CONF / f"template/{template}.yaml").read_text()))
    image = int(tokenizer.convert_tokens_to_ids("<image>"))
    encoder = Encoder(tokenizer, chosen, image, TOKENS_PER_IMAGE, attributes)
    given = {"name": "toy", "length": 3000, "slots": 8, "asks_by_default": attributes is not None, **more}
    return ServedModel(encoder=encoder, pictures=PictureStore(ImageProcessor(image_size=28), picture_limits), **given)


@functools.cache
def png(colour: str = "red", width: int = 12, height: int = 8) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_part(colour: str = "red") -> dict[str, Any]:
    """As OpenAI's clients send it, with VLMEvalKit's detail."""
    return {"type": "image_url", "image_url": {"url": data_url(png(colour)), "detail": "low"}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A request; without messages, a short question."""
    return {"model": "toy", "messages": list(messages) or [user("What is it?")], **more}
