"""LLaVA weights from and to Hugging Face folders, in any layout, one tensor at a time.

Import maps the files and copies each rank's part of each tensor into its parameters: no second copy of the weights is
ever in memory. Export is in `huggingface_export`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

import torch
from megatron.core import parallel_state
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.model.head_config import left_out
from nemo_mm_align.model.huggingface_config import llava_config_from_hf
from nemo_mm_align.model.huggingface_extras import check_extras
from nemo_mm_align.model.huggingface_gather import tensor_parallel_place
from nemo_mm_align.model.huggingface_head import read_head
from nemo_mm_align.model.huggingface_names import EMBEDDING, OUTPUT, Piece, head_piece, weight_pieces
from nemo_mm_align.model.huggingface_reader import WeightFiles
from nemo_mm_align.model.llava import Llava

__all__ = ["check_same_model", "copy_into", "llava_config_from_hf", "load_huggingface", "stage_pieces"]

# What shapes a tensor or changes what is computed from it; a longer or shorter context does neither.
_DECISIVE = (
    *(f"language.{name}" for name in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "groups")),
    *(
        f"language.{name}"
        for name in ("kv_channels", "vocab_size", "rotary_base", "rms_norm_eps", "tie_word_embeddings")
    ),
    "vision",
    "image_token_id",
)

_log = logging.getLogger(__name__)


def load_huggingface(model: Llava, folder: str | Path, tolerant: bool = False) -> None:
    """Fill this rank's stage from a Hugging Face LLaVA folder; adapters keep their values, and so does a head that the
    folder does not have.

    Build the model with ``build_llava(..., initialize=False)`` to spare the time of drawing weights that are replaced.

    Args:
        model: built from ``llava_config_from_hf(folder)``, in any layout and dtype.
        folder: config.json and safetensors, in the key style of transformers 4 or 5.
        tolerant: see `llava_config_from_hf`.

    Raises:
        UserError: another model's config.json; a missing or truncated file; a missing tensor or one of another shape or
            in a quantised format. All of it is found before the first tensor is copied. Values that are no finite numbers:
            on all ranks, when all have read their parts.
    """
    check_same_model(model.model_config, llava_config_from_hf(folder, tolerant), str(Path(folder) / "config.json"))
    files = WeightFiles.of_folder(folder)
    pieces = [*weight_pieces(model.model_config, model.parallel), *_head_pieces(model, folder)]
    files.check(pieces)
    check_extras(files, model.model_config, read_head(folder) is not None)
    if model.model_config.language.tie_word_embeddings and OUTPUT in files:
        _check_tied(files)
    copy_into(model, stage_pieces(pieces), files)
    _check_copies(model, folder)
    _log.info("loaded %s", folder)


def _head_pieces(model: Llava, folder: str | Path) -> list[Piece]:
    """The folder's head, where the model has the same one; of a head that is left out, or begins anew, a warning tells."""
    found, here = read_head(folder), model.head_config
    if found is None:
        return []
    if here == found:
        return [head_piece(model.model_config, found, model.parallel)]
    _log.warning("%s", left_out(folder, found.to_dict(), None if here is None else here.to_dict()))
    return []


def stage_pieces(pieces: Iterable[Piece]) -> list[Piece]:
    """Those that this rank's pipeline stage holds."""
    stage = parallel_state.get_pipeline_model_parallel_rank()
    return [piece for piece in pieces if piece.stage == stage]


def copy_into(model: Llava, pieces: list[Piece], files: WeightFiles) -> None:
    """Copy this rank's part of each tensor into the model, cast to the parameter's dtype; padding becomes zero.

    Raises:
        UserError: on all ranks, where one of them has read values that are no finite numbers.
    """
    parameters = dict(model.named_parameters())
    rank, size = tensor_parallel_place()
    faults = []
    with torch.no_grad():
        for piece in pieces:
            target = piece.of(parameters[piece.parameter], rank, size)
            part = read_part_of(files, piece, rank, size)
            try:
                files.check_finite(piece.name, part)
            except UserError as error:
                faults.append(str(error))
            target.copy_(part.reshape(target.shape))
            if piece.name in (EMBEDDING, OUTPUT):
                parameters[piece.parameter][target.shape[0] :].zero_()
    _raise_together(faults[:1])


def _raise_together(faults: list[str]) -> None:
    """Raise the first fault that any rank has found on every rank: a rank that went on alone would wait for the others."""
    found: list[list[str]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, faults)
    for fault in (fault for part in found for fault in part):
        raise UserError(fault)


def read_part_of(files: WeightFiles, piece: Piece, rank: int, size: int) -> Tensor:
    """Read what TP rank `rank` of `size` holds of a tensor."""
    if piece.split is None or size == 1:
        return files.read(piece.name)
    return files.read_part(piece.name, piece.split, *piece.bounds(rank, size))


def check_same_model(model: LlavaConfig, folder: LlavaConfig, where: str) -> None:
    """Raise `UserError` naming the first size or constant in which a folder's configuration differs from a model's."""
    for field in _DECISIVE:
        ours, theirs = attrgetter(field)(model), attrgetter(field)(folder)
        if ours != theirs:
            raise UserError(
                f"{where}: model.{field} is {theirs} there, the model was built with {ours}. Take the "
                "model's configuration from the folder, or give the folder of this model."
            )


def _check_tied(files: WeightFiles) -> None:
    if not torch.equal(files.read(OUTPUT), files.read(EMBEDDING)):
        raise UserError(
            f"{files.path(OUTPUT)}: config.json says tie_word_embeddings=true, but {files.key(OUTPUT)} differs from "
            f"{files.key(EMBEDDING)}. Correct text_config.tie_word_embeddings in config.json."
        )


def _check_copies(model: Llava, folder: str | Path) -> None:
    """First and last stage hold a tied matrix each; nodes that read different files would train apart unnoticed."""
    weight = model.shared_embedding_or_output_weight()
    tied = model.model_config.language.tie_word_embeddings and model.parallel.pipeline_model_parallel_size > 1
    if not tied or weight is None:
        return
    with torch.no_grad():
        ours = torch.stack(
            [weight.sum(dtype=torch.float64), torch.linalg.vector_norm(weight, dtype=torch.float64)]  # no copy is made
        )
    group = parallel_state.get_embedding_group()
    both = [torch.empty_like(ours) for _ in range(group.size())]
    torch.distributed.all_gather(both, ours, group=group)
    if any(not torch.equal(both[0], other) for other in both):
        raise UserError(
            f"{folder}: first and last pipeline stage read different embeddings. Use one folder for all nodes."
        )
