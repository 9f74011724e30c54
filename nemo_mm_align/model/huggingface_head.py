"""Head and attribute schema in a Hugging Face folder's config.json: what an export says there, and how it is read again.

The keys are those by which transformers (``auto_map``) and vLLM's conversion to a classifier find the head. vLLM asks the
configuration of the whole for some and that of the language model for others, in this version or that, so both have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folder_files import read_object
from nemo_mm_align.model.head_config import HeadConfig
from nemo_mm_align.model.huggingface_keys import shown
from nemo_mm_align.schema.attributes import AttributeSchema

MODULE = Path(__file__).with_name("huggingface_attribute_model.py")
"""What is copied beside the weights; transformers runs it, this engine does not."""

ARCHITECTURE = "LlavaForSequenceClassification"
AUTO_MAP = {"AutoModelForSequenceClassification": f"{MODULE.stem}.{ARCHITECTURE}"}

_LABELS = ("num_labels", "id2label", "label2id", "problem_type")
SCHEMA = "attribute_schema"
"""Key of the schema: what the head tells, or else what the model can be asked for."""

_OWN = ("attribute_pooling", SCHEMA)


def with_head(
    values: Mapping[str, Any], head: HeadConfig, schema: AttributeSchema | None, hidden_size: int
) -> dict[str, Any]:
    """Return a LLaVA's config.json with a head.

    Args:
        values: the config.json; whatever it says of a head is replaced.
        schema: whose attributes the outputs are.
        hidden_size: of the language model; config.json may leave it out where it is transformers' default.
    """
    labels = {str(index): name for index, name in enumerate(head.outputs)}
    said = {
        "num_labels": len(head.outputs),
        "id2label": labels,
        "label2id": {name: int(index) for index, name in labels.items()},
        "problem_type": "regression",  # or vLLM takes a softmax
        "hidden_size": hidden_size,
    }
    plain = without_head(values)
    return {
        **plain,
        **said,
        "architectures": [ARCHITECTURE],
        "auto_map": AUTO_MAP,
        "attribute_pooling": head.pooling,
        SCHEMA: None if schema is None else schema.model_dump(mode="json"),
        "text_config": {**_text(plain), **said},
    }


def with_schema(values: Mapping[str, Any], schema: AttributeSchema | None) -> dict[str, Any]:
    """Return the config.json of a model without a head that can be asked for a schema's attributes, or (None) for nothing."""
    plain = {key: value for key, value in values.items() if key != SCHEMA}
    return plain if schema is None else {**plain, SCHEMA: schema.model_dump(mode="json")}


def has_head(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an attribute model that was exported here."""
    return values.get("auto_map") == AUTO_MAP


def without_head(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json of the LLaVA without its head; one that has none stays as it is."""
    if not has_head(values):
        return dict(values)
    left_out = {"num_labels", "hidden_size", "auto_map", "id2label", "label2id", "problem_type", *_OWN}
    kept = {key: value for key, value in values.items() if key not in left_out}
    text = {key: value for key, value in _text(values).items() if key not in _LABELS}
    return {**kept, "architectures": ["LlavaForConditionalGeneration"], "text_config": text}


def head_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a config.json says of its head that would not be computed here; nothing where it has none."""
    if not has_head(values):
        return
    text = _text(values)
    for key in ("hidden_size", "id2label", "problem_type"):
        if values.get(key) != text.get(key, values.get(key)):
            yield f"{key}={shown(values.get(key))} and text_config.{key}={shown(text.get(key))} differ"
    if values.get("problem_type") != "regression":
        yield f"problem_type={shown(values.get('problem_type'))} is not supported; this engine computes 'regression'"
    labels = values.get("id2label")
    if not isinstance(labels, Mapping) or set(labels) != {str(index) for index in range(len(labels))}:
        yield f"id2label={shown(labels)} does not name the outputs 0, 1, ... of the head"
    elif not all(where.get("num_labels", len(labels)) == len(labels) for where in (values, text)):
        yield f"num_labels={shown(values.get('num_labels'))} is not the number of names in id2label"


def _text(values: Mapping[str, Any]) -> Mapping[str, Any]:
    text = values.get("text_config")
    return text if isinstance(text, Mapping) else {}


def read_schema(folder: str | Path) -> AttributeSchema | None:
    """Return the attribute schema in a Hugging Face folder's config.json, if there is one; raise `UserError` for a bad one."""
    path = Path(folder) / "config.json"
    stored = read_object(path, "config.json").get(SCHEMA)
    return None if stored is None else read(AttributeSchema, stored, f"{path}: {SCHEMA}")


def read_head(folder: str | Path) -> HeadConfig | None:
    """Return the head that a Hugging Face folder's config.json speaks of; None where it is a plain LLaVA.

    Raises:
        UserError: labels or pooling that cannot be read.
    """
    path = Path(folder) / "config.json"
    values = read_object(path, "config.json")
    if not has_head(values):
        return None
    for fault in head_faults(values):
        raise UserError(f"{path}: {fault}. Export the model again.")
    labels = [values["id2label"][str(index)] for index in range(len(values["id2label"]))]
    return read(HeadConfig, {"outputs": labels, "pooling": values.get("attribute_pooling")}, f"{path}: head")


def module_fault(folder: str | Path) -> str | None:
    """Return what is to be said of a folder's modelling file, which is not run here: another one may compute otherwise."""
    path = Path(folder) / MODULE.name
    if path.is_file() and path.read_bytes() == MODULE.read_bytes():
        return None
    state = "is another than this version writes" if path.is_file() else "is missing"
    return f"{path}: {state}; the head is computed here as config.json says, whatever transformers makes of the folder"
