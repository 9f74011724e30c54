"""Where a model comes from: a Hugging Face folder or a checkpoint of ours, opened the same way for training and inference."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folder_files import check_files
from nemo_mm_align.core.processes import this_process
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.model.head_config import HeadConfig
from nemo_mm_align.model.huggingface_config import llava_config_from_hf
from nemo_mm_align.model.huggingface_head import module_fault, read_head, read_schema
from nemo_mm_align.parallel import checkpoint_folder
from nemo_mm_align.parallel.fingerprint import fingerprint_folder
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.image_settings import check_processor
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.template_choice import choose_template
from nemo_mm_align.schema.tokenizer_files import load_tokenizer

if TYPE_CHECKING:
    from nemo_mm_align.model.llava import Llava

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """A model folder and what it says of itself.

    Attributes:
        folder: the Hugging Face folder or the checkpoint (a ``step_...`` folder).
        metadata: of a checkpoint of ours, else ``None``.
        config: sizes.
        tokenizer_folder: tokenizer and image-processor files.
        folder_head, folder_schema: of a Hugging Face folder, if it has one; a checkpoint's stands in its metadata.
    """

    folder: Path
    metadata: checkpoint_folder.CheckpointMetadata | None
    config: LlavaConfig
    tokenizer_folder: Path
    folder_head: HeadConfig | None = None
    folder_schema: AttributeSchema | None = None

    @property
    def lora(self) -> LoRAConfig | None:
        """Adapters that the checkpoint was trained with."""
        stored = self.metadata.lora if self.metadata else None
        return LoRAConfig(**stored) if stored else None

    @property
    def head(self) -> HeadConfig | None:
        """What turns hidden states into numbers, if the model has that."""
        if self.metadata is None:
            return self.folder_head
        return None if self.metadata.head is None else read(HeadConfig, self.metadata.head, "head")

    def template(self, given: ChatTemplate | None) -> ChatTemplate:
        """The checkpoint's own template; of a Hugging Face folder what `choose_template` says. Logs which it is, and why."""
        if self.metadata:
            stored = ChatTemplate.from_config(self.metadata.template)
            if given is not None and given != stored:
                _say(f"template={given.name} is not read: {self.folder} was trained with {stored.name}, which is used")
            return stored
        return self._choose(given)

    def check_template(self, given: ChatTemplate) -> None:
        """Warn where a training's template is another than that of the model it starts from."""
        if self.metadata is None:
            self._choose(given)
        elif ChatTemplate.from_config(self.metadata.template) != given:
            name = self.metadata.template.get("name")
            _say(f"{self.folder} was trained with the template {name}, this training takes {given.name} (template=...)")

    def _choose(self, given: ChatTemplate | None) -> ChatTemplate:
        choice = choose_template(self.folder, given)
        if choice.warning is not None:
            _say(choice.warning)
        _say(f"{self.folder}: prompted with {choice.words} ({choice.reason})", logging.INFO)
        return choice.template

    def schema(self, default: AttributeSchema | None) -> AttributeSchema | None:
        """The schema that the model was trained with, where its folder says so, else `default`."""
        return self._stored_schema or default

    @property
    def _stored_schema(self) -> AttributeSchema | None:
        stored = self.metadata.attribute_schema if self.metadata else None
        return AttributeSchema.model_validate(stored) if stored else self.folder_schema

    @property
    def asking(self) -> AttributeSchema | None:
        """The schema by whose attributes the model was trained to be asked; None where it was not, or nobody knows.

        A checkpoint has a schema whether its recipe looked at it or not; whether one did is told by its ``attributed``.
        """
        if self.head is not None or (self.metadata is not None and not self.metadata.recipe.get("attributed")):
            return None
        return self._stored_schema

    def check_asking(self, given: AttributeSchema) -> None:
        """Warn where a training's schema asks in another way than the model it starts from was trained to be asked in."""
        known = self.asking
        if known is not None and known.line_with_ranges != given.line_with_ranges:
            _say(
                f"{self.folder} was trained to be asked by {known.line_with_ranges!r}, this training asks by "
                f"{given.line_with_ranges!r}, and its model will be asked so. attribute_schema=... chooses another line"
            )

    def image_processor(self) -> ImageProcessor:
        """How images become the tower's input."""
        if self.metadata:
            return ImageProcessor.model_validate(self.metadata.image_processor)
        check_processor(self.tokenizer_folder, self.config.vision.patch_size)
        processor = ImageProcessor.from_hf(self.tokenizer_folder)
        if processor.image_size != self.config.vision.image_size:
            raise UserError(
                f"{self.tokenizer_folder}: its image processor makes images of {processor.image_size} pixels, but the vision "
                f"tower takes {self.config.vision.image_size}."
            )
        return processor

    def encoder(self, template: ChatTemplate, schema: AttributeSchema | None) -> Encoder:
        """Tokenizer, template and image tokens as one."""
        tokenizer = load_tokenizer(self.tokenizer_folder)
        self._check_vocabulary(max(tokenizer.get_vocab().values(), default=0))
        return Encoder(tokenizer, template, self.config.image_token_id, self.config.tokens_per_image, schema)

    def _check_vocabulary(self, highest: int) -> None:
        rows = self.config.language.vocab_size
        if highest < rows:
            return
        fault = (
            f"{self.tokenizer_folder}: the tokenizer has ids up to {highest}, the model embeddings for {rows} tokens. "
        )
        if self.metadata is None:
            raise UserError(f"{fault}Copy the tokenizer's files there that belong to these weights.")
        _say(f"{fault}A prompt with one of the others will fail.")  # trained when nobody looked

    def schema_told(self) -> AttributeSchema:
        """Return the schema whose attributes the model's head tells; raise `UserError` where it has none."""
        if self.head is None:
            raise UserError(
                f"{self.folder}: has no head that rates answers. Give a model that was trained to tell attributes, a checkpoint "
                "or what scripts/convert.py direction=export made of one."
            )
        schema = self.schema(None)
        if schema is None or schema.names != self.head.outputs:
            named = "it has no schema" if schema is None else f"its schema has {', '.join(schema.names)}"
            raise UserError(
                f"{self.folder}: its head tells {', '.join(self.head.outputs)}, but {named}; it rates nothing."
            )
        loss = self.metadata.recipe.get("loss_function", "mse") if self.metadata else "mse"
        if loss != "mse":
            _say(
                f"{self.folder}: was trained with recipe.loss_function={loss}, which orders answers by a weighted sum: single "
                "attributes are in their own units only as far as they were in the model that it began from"
            )
        return schema

    def refuse_head(self, purpose: str) -> None:
        """Raise `UserError` where the model rates answers: its language model was trained to be read, not to speak."""
        if self.head is not None:
            outputs = ", ".join(self.head.outputs)
            raise UserError(
                f"{self.folder}: has a head that tells {outputs} of answers; {purpose}. Give a model that was trained to answer."
            )

    def refuse_adapters(self) -> None:
        """Raise `UserError` where a training would start from adapters, on top of which there can be none."""
        if self.lora is None or self.metadata is None:
            return
        if self.metadata.head is not None:
            raise UserError(
                f"{self.folder}: holds adapters and a head that rates answers, nothing to start a training from. Give the model "
                f"that it was trained from ({self.metadata.base_path})."
            )
        raise UserError(
            f"{self.folder}: already has adapters. Merge them first (scripts/convert.py direction=export "
            "adapters=merged), then train new ones on the result."
        )

    def fingerprint(self) -> str:
        """Short hash of the weights that `load_weights` would load."""
        own = fingerprint_folder(self.folder)
        return f"{self.metadata.base_fingerprint}+{own}" if self.lora and self.metadata else own


@functools.cache
def _say(text: str, level: int = logging.WARNING) -> None:
    """Log on the first rank, once: a command looks at its model before the slow imports, and again with them."""
    if this_process().rank == 0:
        logger.log(level, "%s", text)


def open_source(folder: str | Path, tolerant: bool = False) -> ModelSource:
    """Find out what `folder` holds: a Hugging Face LLaVA, a checkpoint, or a run whose newest checkpoint is meant.

    Args:
        folder: of the model.
        tolerant: see `llava_config_from_hf`.

    Raises:
        UserError: neither, or its configuration is not that of a supported LLaVA.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give a Hugging Face model folder or a checkpoint.")
    found = checkpoint_folder.latest_checkpoint(folder)
    if found is not None:
        metadata = checkpoint_folder.read_metadata(found)
        tokenizer = found / checkpoint_folder.TOKENIZER_FOLDER
        return ModelSource(found, metadata, LlavaConfig.from_dict(metadata.model), tokenizer)
    if not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: holds adapters of PEFT alone. Merge them into their base (peft: merge_and_unload, then save_pretrained; "
            "of a checkpoint of ours: scripts/convert.py direction=export adapters=merged) and give that folder."
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder}: neither a Hugging Face model (no config.json) nor a checkpoint (no {checkpoint_folder.METADATA_FILE}, no "
            "step_... folder)."
        )
    check_files(folder)
    config, head, schema = llava_config_from_hf(folder, tolerant), read_head(folder), read_schema(folder)
    fault = module_fault(folder) if head is not None else None
    if fault is not None:
        _say(fault)
    return ModelSource(folder, None, config, folder, head, schema)


def load_weights(model: Llava, source: ModelSource, base: str | Path | None = None, tolerant: bool = False) -> None:
    """Fill a built model; for a LoRA checkpoint first its base, then adapters and projector. All ranks call it.

    Args:
        model: built with ``source.config``; with ``source.lora`` where the checkpoint has adapters.
        base: where the base of a LoRA checkpoint lies now, if not where it lay in training.
        tolerant: see `llava_config_from_hf`; the base of adapters was once trained on as it is.

    Raises:
        UserError: the base is missing or is not the one the adapters were trained on.
    """
    from nemo_mm_align.model.huggingface import load_huggingface  # what a folder is can be found out without torch
    from nemo_mm_align.parallel import checkpoint

    if source.metadata is None:
        load_huggingface(model, source.folder, tolerant)
        return
    if source.lora:
        load_weights(model, _base_of(source.metadata, base, source.folder), tolerant=True)
    checkpoint.load(source.folder, model)


def _base_of(metadata: checkpoint_folder.CheckpointMetadata, base: str | Path | None, folder: Path) -> ModelSource:
    path = Path(base or metadata.base_path)
    if not path.is_dir():
        raise UserError(f"{folder}: its base model {path} is not there. Say where it lies now with base=FOLDER.")
    source = open_source(path, tolerant=True)
    if source.fingerprint() != metadata.base_fingerprint:
        raise UserError(
            f"{path}: not the base model that the adapters in {folder} were trained on (fingerprint {source.fingerprint()}, "
            f"expected {metadata.base_fingerprint}). Give the right one with base=FOLDER."
        )
    return source


def build_from(
    source: ModelSource,
    parallel: ParallelConfig,
    engine: EngineConfig,
    lora: LoRAConfig | None = None,
    base: str | Path | None = None,
    head: HeadConfig | None = None,
) -> Llava:
    """Build a model for `source` on this rank and load its weights; process groups must be up.

    Args:
        lora: fresh adapters on top of the source (training); a LoRA checkpoint brings its own.
        head: on top of the source: its own where that is the same, else (training) a fresh one.
    """
    from nemo_mm_align.model.llava import build_llava

    if lora is not None:
        source.refuse_adapters()
    model = build_llava(source.config, parallel, engine, lora or source.lora, initialize=False, head=head)
    load_weights(model, source, base)
    return model


def source_settings(config: Any) -> ModelSource:
    """Open the model that a configuration names in ``model.hf_path`` or ``model.checkpoint``."""
    given = [path for path in (config.get("hf_path"), config.get("checkpoint")) if path]
    if len(given) != 1:
        raise UserError("set exactly one of model.hf_path (a Hugging Face folder) and model.checkpoint (one of ours).")
    return open_source(given[0])
