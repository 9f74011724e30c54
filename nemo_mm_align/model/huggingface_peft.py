"""LoRA adapters and projector as a PEFT folder, and back: small files beside an untouched base model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folder_files import read_object
from nemo_mm_align.model.config import LoRAConfig
from nemo_mm_align.model.huggingface import copy_into, read_part_of, stage_pieces
from nemo_mm_align.model.huggingface_export import Companions, torch_dtype, write_on_first_rank
from nemo_mm_align.model.huggingface_gather import rows_of, stream_to_first_rank, tensor_parallel_place
from nemo_mm_align.model.huggingface_names import (
    PROJECTOR,
    Piece,
    adapter_module_pattern,
    adapter_pieces,
    module_of,
    weight_pieces,
)
from nemo_mm_align.model.huggingface_origin import Origin, write_json
from nemo_mm_align.model.huggingface_reader import WeightFiles
from nemo_mm_align.model.huggingface_writer import Entry, ShardWriter, dtype_name
from nemo_mm_align.model.llava import Llava

CONFIG_FILE, WEIGHTS_STEM = "adapter_config.json", "adapter_model"
_PREFIX = "base_model.model."
_PROJECTOR_MODULE = PROJECTOR.rpartition(".")[2]


def export_peft(
    model: Llava,
    folder: str | Path,
    base: str,
    origin: Origin | None = None,
    dtype: str | None = None,
    companions: Companions | None = None,
    projector: bool = True,
) -> None:
    """Write adapters and projector as a PEFT folder, which ``PeftModel.from_pretrained(base model, folder)`` opens.

    All ranks call it, rank 0 writes.

    Args:
        model: with adapters, in any layout.
        folder: to be made.
        base: folder or hub name of the base model, as PEFT will look for it.
        origin, companions: tokenizer, processor and template files that travel along.
        dtype: ``fp32``, ``bf16`` or ``fp16``; ``None`` is the model's own.
        projector: False leaves the projector out, for a base that has the trained one already; servers take no other adapters.

    Raises:
        UserError: on all ranks: the model has no adapters, the folder exists, the disk is full.
    """
    if model.lora is None:
        raise UserError("the model has no adapters to export apart; export it merged.")
    lora = model.lora
    pieces = _pieces(model, lora, projector)
    kind = torch_dtype(dtype) if dtype is not None else model.config.params_dtype
    blocks = stream_to_first_rank(pieces, [kind] * len(pieces), rows_of(dict(model.named_parameters())))

    def write(partial: Path) -> None:
        if origin is not None:
            (companions or Companions()).write(partial, origin)
        write_json(partial / CONFIG_FILE, _peft_config(lora, base, projector))
        entries = [Entry(_PREFIX + piece.name, dtype_name(kind), piece.shape) for piece in pieces]
        with ShardWriter(partial, entries, WEIGHTS_STEM, max_shard_bytes=2**63) as writer:
            for _, block in blocks:
                writer.write(block)

    write_on_first_rank(folder, write, blocks)


def lora_config_from_peft(folder: str | Path) -> LoRAConfig:
    """Read the adapter settings of a PEFT folder that `export_peft` wrote; raise `UserError` for any other kind."""
    path = Path(folder) / CONFIG_FILE
    values = read_object(path, "adapters of PEFT")
    targets = tuple(name for name in LoRAConfig().targets if _mentions(values.get("target_modules"), name))
    lora = LoRAConfig(values["r"], values["lora_alpha"], values.get("lora_dropout", 0.0), targets)
    for key, value in _peft_config(lora, "", _has_projector(values)).items():
        if key not in ("base_model_name_or_path", "inference_mode") and values.get(key, value) != value:
            raise UserError(f"{path}: {key}={values[key]!r} is not supported; this engine has {value!r}.")
    return lora


def load_peft(model: Llava, folder: str | Path) -> None:
    """Fill adapters and projector from a PEFT folder that `export_peft` wrote; the model must have the same adapters.

    Raises:
        UserError: other adapter settings, a missing or truncated file, a missing tensor or one of another shape.
    """
    theirs = lora_config_from_peft(folder)
    ours = model.lora
    if (
        ours is None
        or (ours.rank, ours.targets) != (theirs.rank, theirs.targets)
        or not math.isclose(ours.scale, theirs.scale)
    ):
        raise UserError(
            f"{folder}: holds adapters {theirs}, the model was built with {ours}. Build it with the former."
        )
    files = WeightFiles([Path(folder) / f"{WEIGHTS_STEM}.safetensors"], strip=_PREFIX)
    pieces = _pieces(model, ours, _has_projector(read_object(Path(folder) / CONFIG_FILE, "adapters of PEFT")))
    files.check(pieces)
    copy_into(model, stage_pieces(pieces), files)


def projector_is_trained(model: Llava, base: str | Path) -> bool:
    """Whether the model's projector is another than its base's, so that adapters alone are not the model. All ranks call it."""
    parameters, files = dict(model.named_parameters()), WeightFiles.of_folder(base)
    rank, size = tensor_parallel_place()
    differs = False
    for piece in stage_pieces(_projector_pieces(model)):
        ours = piece.of(parameters[piece.parameter], rank, size)
        theirs = read_part_of(files, piece, rank, size).to(ours.dtype).reshape(ours.shape)
        differs |= not torch.equal(theirs.to(ours.device), ours)
    found = [differs] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, differs)
    return any(found)


def _projector_pieces(model: Llava) -> list[Piece]:
    weights = weight_pieces(model.model_config, model.parallel)
    return [piece for piece in weights if piece.name.startswith(PROJECTOR)]


def _pieces(model: Llava, lora: LoRAConfig, projector: bool) -> list[Piece]:
    adapters = adapter_pieces(model.model_config, model.parallel, lora)
    return [*_projector_pieces(model), *adapters] if projector else adapters


def _has_projector(values: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json speaks of a projector; what else may stand in its place is found out by comparing."""
    return values.get("modules_to_save", [_PROJECTOR_MODULE]) is not None


def _peft_config(lora: LoRAConfig, base: str, projector: bool) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": adapter_module_pattern(lora),
        "modules_to_save": [_PROJECTOR_MODULE] if projector else None,
        "bias": "none",
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
    }


def _mentions(pattern: Any, target: str) -> bool:
    return isinstance(pattern, str) and module_of(target) in pattern.replace("\\", "")
