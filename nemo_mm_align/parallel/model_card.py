"""README.md of an export: what the model is, how it is asked, what it was made of. What nobody wrote down is "not recorded"."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml

import nemo_mm_align
from nemo_mm_align.core.run_files import FACTS_FILE, read_facts
from nemo_mm_align.parallel.conversion_settings import ConvertSettings
from nemo_mm_align.parallel.model_card_base import BaseFacts, base_facts
from nemo_mm_align.parallel.model_card_results import read_figures
from nemo_mm_align.parallel.source import ModelSource
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate

Form = Literal["whole", "apart", "base", "adapter"]
"""A whole model; adapters with their projector; the two halves of ``adapters=served``."""

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_UNKNOWN = "not recorded"
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` takes (vllm/config/lora.py)."""

_APART = ("data", "pictures", "attributed", "tokens", "name")
"""Of a recipe: facts that stand elsewhere in the card."""


@dataclass(frozen=True)
class Card:
    """What cards of one export have in common.

    Args:
        template, schema: that the model is asked by; `schema` is None where it cannot be asked.
    """

    source: ModelSource
    config: ConvertSettings
    template: ChatTemplate
    schema: AttributeSchema | None

    def text(self, form: Form, projector_trained: bool = True) -> str:
        """Return README.md.

        Args:
            form: of the folder that it is for.
            projector_trained: whether adapters alone are not the model.
        """
        template = _environment().from_string(_TEMPLATE.read_text(encoding="utf-8"))
        text = template.render(self._facts(form), form=form, projector_trained=projector_trained)
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

    def _facts(self, form: Form) -> dict[str, Any]:
        source, config, metadata = self.source, self.config, self.source.metadata
        name, base, facts = config.out.name, self._base(), _run_facts(source)
        recipe = {} if metadata is None else metadata.recipe
        example = _example(self.schema)
        return {
            "name": name,
            "served": {"base": f"{name}/base", "adapter": f"{name}/adapter"}.get(form, name),
            "opened": f"{name}/base" if form == "adapter" else base.hub_name or "FOLDER_OF_THE_BASE",
            "about": _about(source, self.schema),
            "front_matter": self._front_matter(form, base),
            "base": base,
            "license": ", ".join(base.license.values()),
            "recipe": recipe,
            "facts": facts,
            "lora": source.lora,
            "data": config.card.data or facts.get("data_files", ()),
            "judge": config.card.judge,
            "head": None if source.head is None else source.head.outputs,
            "attributes": [_attribute(item) for item in self._attributes],
            "line": None if self.schema is None else _line(self.template, self.schema),
            "example": None if example is None else json.dumps(example),
            "alias": None if example is None else ",".join(f"{key}={value:g}" for key, value in example.items()),
            "commands": list(_commands(form, name, source)),
            "sampling": ", ".join(
                f"{key} {value}" for key, value in config.generation.model_dump(exclude_none=True).items()
            ),
            "settings": list(_settings(source, recipe, facts)),
            "versions": ", ".join(f"{key} {value}" for key, value in metadata.versions.items()) if metadata else "",
            "version": nemo_mm_align.__version__,
            "results": read_figures(config.results) if config.results is not None else (),
        }

    @property
    def _attributes(self) -> tuple[Attribute, ...]:
        if self.source.head is None:
            return () if self.schema is None else self.schema.asked
        told = self.source.schema(None)
        return told.attributes if told is not None and told.names == self.source.head.outputs else ()

    def _base(self) -> BaseFacts:
        metadata, card = self.source.metadata, self.config.card
        if metadata is None:
            return base_facts(self.source.folder, self.source.fingerprint(), card)
        return base_facts(Path(self.config.base or metadata.base_path), metadata.base_fingerprint, card)

    def _front_matter(self, form: Form, base: BaseFacts) -> str:
        """As the hub reads it; a key whose value nobody knows is left out."""
        adapters = form in ("apart", "adapter")
        values: dict[str, Any] = {"library_name": "peft" if adapters else "transformers"}
        if self.source.head is None:
            values["pipeline_tag"] = "image-text-to-text"
        if base.hub_name is not None:
            values |= {"base_model": base.hub_name, "base_model_relation": "adapter" if adapters else "finetune"}
        values |= base.license
        values["tags"] = list(_tags(self.source, self.schema, adapters))
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def served_flags(rank: int) -> str:
    """Return vLLM's flags for adapters of a rank; its limit takes certain numbers alone."""
    limit = next((known for known in _LORA_RANKS if known >= rank), rank)
    return f"--enable-lora --max-lora-rank {limit}"


def _commands(form: Form, name: str, source: ModelSource) -> Iterator[str]:
    folder = name if form == "whole" else f"{name}/base"
    template = f"--chat-template {folder}/chat_template.jinja"
    beside = "" if form == "whole" else f" --lora-modules {name}={name}/adapter"
    flags = "" if source.lora is None or form == "whole" else f" {served_flags(source.lora.rank)}{beside}"
    yield f"vllm serve {folder} {template}{flags}"
    if form == "whole":
        yield f"python -m sglang.launch_server --port 8000 --model-path {folder} {template}"


def _about(source: ModelSource, schema: AttributeSchema | None) -> str:
    kind = "A LLaVA (CLIP tower, two-layer projector, Llama-type language model)"
    if source.head is not None:
        return f"{kind} that tells {', '.join(source.head.outputs)} of an answer to a question about images."
    if schema is None:
        return f"{kind} that answers questions about images."
    asked = ", ".join(item.name for item in schema.asked)
    return f"{kind} that answers questions about images and can be asked for {asked}."


def _tags(source: ModelSource, schema: AttributeSchema | None, adapters: bool) -> Iterator[str]:
    yield from ("llava", "nemo_mm_align")
    if source.metadata is not None:
        yield str(source.metadata.recipe.get("name", "checkpoint"))
    if source.head is not None:
        yield "reward-model"
    elif schema is not None:
        yield "steerable"
    if adapters:
        yield "lora"


def _attribute(item: Attribute) -> dict[str, Any]:
    better = {None: "neither end", True: "higher", False: "lower"}[item.higher_is_better]
    kind = "whole numbers" if item.integer else "numbers"
    return {
        "name": item.name,
        "range": f"{kind}, {item.minimum:g} to {item.maximum:g}",
        "default": f"{item.default:g}",
        "better": better,
        "description": item.description,
        "levels": [(f"{level:g}", text) for level, text in sorted(item.levels.items())],
    }


def _example(schema: AttributeSchema | None) -> dict[str, float] | None:
    """An attribute that is a matter of taste, if there is one, at an end of its range that is not its default."""
    if schema is None:
        return None
    item = next((item for item in reversed(schema.asked) if item.higher_is_better is None), schema.asked[-1])
    return {item.name: item.check(item.minimum if item.default != item.minimum else item.maximum)}


def _line(template: ChatTemplate, schema: AttributeSchema) -> str:
    values = {item.name: item.default for item in schema.asked}
    if template.attributes_prefix is None:
        return schema.steering_line(values)
    return f"{template.attributes_prefix}{schema.label_string(values)}".strip()


def _settings(source: ModelSource, recipe: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the training was, by the names of its settings."""
    yield "recipe", str(recipe.get("name", ""))
    metadata = source.metadata
    if metadata is None:
        return
    yield "step of the checkpoint", str(metadata.step)
    if "epochs" in facts:
        yield "epochs", f"{facts['epochs']:.3g}"
    yield from _flat({key: value for key, value in recipe.items() if key not in (*_APART, *facts.keys() & {"epochs"})})
    yield from (
        _flat(asdict(source.lora), "lora.")
        if source.lora is not None
        else (("lora", "none: all of the trained parts"),)
    )
    yield "precision", metadata.precision
    yield from _flat(metadata.layout)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _run_facts(source: ModelSource) -> dict[str, Any]:
    """What the run's folder says of its training, if the checkpoint still lies in it."""
    found = source.metadata is not None and next(
        (up for up in source.folder.parents if (up / FACTS_FILE).is_file()), None
    )
    return (read_facts(found) or {}) if found else {}


def _environment() -> jinja2.Environment:
    # Markdown, not HTML; what could break a table is taken out by `plain`
    found = jinja2.Environment(
        undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    found.filters |= {"plain": _plain, "known": _known}
    return found


def _plain(value: Any) -> str:
    """A text that stands in a table on one line."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _known(value: Any, otherwise: str = _UNKNOWN) -> str:
    empty = value is None or value == "" or isinstance(value, jinja2.Undefined)
    return otherwise if empty else _plain(value)
