"""A model as a Hugging Face folder that transformers and vLLM open: weights streamed to rank 0, adapters merged, head kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folder_files import read_object
from nemo_mm_align.model.generation_defaults import GenerationDefaults, generation_config, left_out
from nemo_mm_align.model.huggingface import check_same_model
from nemo_mm_align.model.huggingface_config import config_from_values
from nemo_mm_align.model.huggingface_gather import merged_rows, rows_of, stream_to_first_rank
from nemo_mm_align.model.huggingface_head import MODULE, with_head, with_schema, without_head
from nemo_mm_align.model.huggingface_names import (
    EMBEDDING,
    HEAD,
    OUTPUT,
    Piece,
    file_name,
    head_piece,
    weight_pieces,
)
from nemo_mm_align.model.huggingface_origin import Origin, write_json
from nemo_mm_align.model.huggingface_writer import DTYPES, Entry, ShardWriter, dtype_name, new_folder
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel.first_rank import attempt, raise_fault, share
from nemo_mm_align.schema.attributes import AttributeSchema

_log = logging.getLogger(__name__)

CARD_FILE, GENERATION_FILE = "README.md", "generation_config.json"

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Companions:
    """Files of an export that come from the training run and not from the folder of origin.

    Args:
        chat_template: Jinja text (`ChatTemplate.jinja`); replaces any template of the origin.
        image_processor: content of preprocessor_config.json (`ImageProcessor.to_hf`).
        generation: special tokens in generation_config.json, for example ``eos_token_id``; None leaves the file as it is.
        sampling: what servers do where a request says nothing; None: nothing is said of it.
        card: text of README.md.
        schema: the attribute schema whose attributes a model with a head tells, any other can be asked for.
    """

    chat_template: str | None = None
    image_processor: dict[str, Any] | None = None
    generation: dict[str, Any] | None = None
    sampling: GenerationDefaults | None = None
    card: str | None = None
    schema: AttributeSchema | None = None

    def write(self, folder: Path, origin: Origin) -> None:
        """Copy the origin's files and put these in their place; write the processor's sizes."""
        for path in origin.files:
            shutil.copyfile(path, folder / path.name)
        if self.chat_template is not None:
            (folder / "chat_template.json").unlink(missing_ok=True)
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")
        if (folder / "tokenizer_config.json").exists():
            self._write_tokenizer_config(folder / "tokenizer_config.json")
        if self.image_processor is not None:
            write_json(folder / "preprocessor_config.json", self.image_processor)
        if self.generation is not None:
            self._write_generation(folder / GENERATION_FILE, self.generation)
        if self.card is not None:
            (folder / CARD_FILE).write_text(self.card, encoding="utf-8")
        if (folder / "preprocessor_config.json").exists():
            _update_json(folder / "processor_config.json", _processor(origin), without="image_processor")

    def _write_generation(self, path: Path, tokens: dict[str, Any]) -> None:
        origin = read_object(path, path.name) if path.exists() else {}
        unused = left_out(origin)
        if unused:
            said = ", ".join(f"{name}={value}" for name, value in sorted(unused.items()))
            _log.warning(
                "%s of the folder of origin says %s; the export does not, since servers would decode by it unasked. What it "
                "shall say is set by generation={...}",
                path.name,
                said,
            )
        write_json(path, generation_config(origin, tokens, self.sampling))

    def _write_tokenizer_config(self, path: Path) -> None:
        values = read_object(path, "a tokenizer")
        if self.chat_template is not None:
            values.pop("chat_template", None)
        if (
            values.get("tokenizer_class") == "PreTrainedTokenizerFast"
        ):  # its default brings token types, unknown to LLaVA
            values.setdefault("model_input_names", ["input_ids", "attention_mask"])
        write_json(path, values)


def export_huggingface(
    model: Llava,
    folder: str | Path,
    origin: Origin | None = None,
    dtype: str | None = None,
    companions: Companions | None = None,
    max_shard_bytes: int = 5_000_000_000,
    merge: bool = True,
) -> None:
    """Write a Hugging Face folder; adapters are merged (in fp32, then cast). All ranks call it, rank 0 writes.

    Args:
        model: in any layout.
        folder: to be made; it appears under its name only when it is complete.
        origin: form of the folder that the model came from; keys, number formats and carried tensors are taken from it.
            ``None``: keys as transformers 4 writes them, the model's number format.
        dtype: ``fp32``, ``bf16`` or ``fp16`` for all tensors; ``None`` keeps the origin's.
        companions: template, processor and generation settings of the training run.
        max_shard_bytes: size of a shard.
        merge: False leaves adapters out: the model that they stand on, its trained projector included.

    Raises:
        UserError: on all ranks: the folder exists, the disk is full, the origin is another model's, unknown dtype.
    """
    target, companions = None if dtype is None else torch_dtype(dtype), companions or Companions()
    origin = origin or Origin.of_config(model.model_config, target or model.config.params_dtype)
    origin = _with_head_of(model, origin, companions.schema)
    check_same_model(
        model.model_config, config_from_values(origin.config, "config.json"), "config.json of the folder of origin"
    )
    pieces = _pieces_in_form_of(origin, model, target)
    dtypes = [_dtype(piece, origin, target) for piece in pieces]
    merged = merge and model.lora is not None
    rows = merged_rows(model) if merged else rows_of(dict(model.named_parameters()))
    blocks = stream_to_first_rank(pieces, dtypes, rows)

    def write(partial: Path) -> None:
        companions.write(partial, origin)
        if model.head_config is not None:
            shutil.copyfile(MODULE, partial / MODULE.name)
        write_json(partial / "config.json", _config_in_dtype(origin.config, dtype))
        entries = [
            Entry(origin.computed[piece.name][0], dtype_name(kind), piece.shape)
            for piece, kind in zip(pieces, dtypes, strict=True)
        ]
        _write_weights(partial, entries, blocks, origin, target, max_shard_bytes)

    write_on_first_rank(folder, write, blocks)


def write_on_first_rank(folder: str | Path, write: Any, blocks: Iterator[tuple[int, Tensor]]) -> None:
    """Let rank 0 call ``write(partial folder)``, which consumes `blocks`; raise its `UserError` on every rank."""

    def write_all() -> None:
        with new_folder(folder) as partial:
            write(partial)

    _, fault = attempt(write_all)
    for _ in blocks:  # what a failed write left; elsewhere: send all
        pass
    raise_fault(share(fault))


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype called ``fp32``, ``bf16`` or ``fp16``; raise `UserError` for other names."""
    if name not in _DTYPES:
        raise UserError(f"dtype={name!r}: choose from {', '.join(_DTYPES)}, or null for that of the origin.")
    return _DTYPES[name]


def _with_head_of(model: Llava, origin: Origin, schema: AttributeSchema | None) -> Origin:
    """The origin's form with the model's head, whatever head the folder of origin had."""
    head, computed = model.head_config, {name: form for name, form in origin.computed.items() if name != HEAD}
    if head is None:
        return replace(origin, config=with_schema(without_head(origin.config), schema), computed=computed)
    fits = schema is not None and schema.names == head.outputs  # what another recipe's head tells are no attributes
    told = schema if fits else None
    config = with_head(origin.config, head, told, model.model_config.language.hidden_size)
    return replace(origin, config=config, computed={**computed, HEAD: (file_name(HEAD), "F32")})


def _dtype(piece: Piece, origin: Origin, target: torch.dtype | None) -> torch.dtype:
    """A head's weight is fp32 whatever else is: servers compute it so."""
    return torch.float32 if piece.name == HEAD else target or DTYPES[origin.computed[piece.name][1]]


def _pieces_in_form_of(origin: Origin, model: Llava, dtype: torch.dtype | None) -> list[Piece]:
    """The tensors to write, wide dtypes first; a tied output layer again where the origin's file holds one."""
    pieces: dict[str, Piece] = {}
    for piece in weight_pieces(model.model_config, model.parallel):
        pieces.setdefault(piece.name, piece)  # a tied embedding's second copy stays where it is
    if model.model_config.language.tie_word_embeddings and OUTPUT in origin.computed:
        pieces[OUTPUT] = replace(pieces[EMBEDDING], name=OUTPUT)
    if model.head_config is not None:
        pieces[HEAD] = head_piece(model.model_config, model.head_config, model.parallel)
    chosen = [pieces[name] for name in sorted(pieces, key=lambda name: pieces[name].stage)]
    return sorted(chosen, key=lambda piece: -_dtype(piece, origin, dtype).itemsize)


def _write_weights(
    folder: Path,
    computed: Sequence[Entry],
    blocks: Iterator[tuple[int, Tensor]],
    origin: Origin,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
) -> None:
    """Write computed and carried tensors, merged by width, so that every tensor is aligned in its file."""
    carried = list(origin.carried_entries(dtype))
    order = sorted([*computed, *carried], key=lambda entry: -DTYPES[entry.dtype].itemsize)
    is_computed = {entry.key for entry in computed}
    with ShardWriter(folder, order, max_shard_bytes=max_shard_bytes) as writer:
        for entry in order:
            if entry.key in is_computed:
                left = entry.num_bytes
                while left:
                    _, block = next(blocks)
                    _check_finite(entry, block)
                    writer.write(block)
                    left -= block.numel() * block.element_size()
            else:
                writer.write(origin.carried[entry.key].read().to(DTYPES[entry.dtype]))


def _check_finite(entry: Entry, block: Tensor) -> None:
    if torch.isfinite(block.sum(dtype=torch.float32)) or torch.isfinite(block).all():
        return  # the sum needs no copy
    raise UserError(
        f"tensor {entry.key} holds values that are no finite numbers in {entry.dtype}; no folder was made. Numbers too large for "
        "fp16 fit into dtype=bf16 or fp32; if the model itself holds NaN, export an earlier checkpoint."
    )


def _config_in_dtype(config: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    if dtype is None:
        return config
    name = str(_DTYPES[dtype]).removeprefix("torch.")

    def changed(values: dict[str, Any]) -> dict[str, Any]:
        return {key: name if key in ("dtype", "torch_dtype") else value for key, value in values.items()}

    parts = {
        key: changed(value) for key, value in config.items() if key.endswith("_config") and isinstance(value, dict)
    }
    result = {**changed(config), **parts}
    return result if "dtype" in result or "torch_dtype" in result else {**result, "torch_dtype": name}


def _processor(origin: Origin) -> dict[str, Any]:
    """Entries of processor_config.json: how many image tokens transformers' `LlavaProcessor` puts for an image."""
    vision = config_from_values(origin.config, "config.json").vision
    return {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": vision.patch_size,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,  # the class token, which "default" drops again
    }


def _update_json(path: Path, entries: dict[str, Any], without: str = "") -> None:
    """Set entries of a JSON file; `without`: a section that another file says now."""
    values = read_object(path, path.name) if path.exists() else {}
    values.pop(without, None)
    write_json(path, {**values, **entries})
