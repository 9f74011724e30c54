"""Tensors of a model folder that no part of the model asks for: carried along, named in a warning, or a sign of quantisation."""

from __future__ import annotations

import logging
import re

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.model.huggingface_names import HEAD, OUTPUT, uncomputed_vision_shapes, weight_pieces
from nemo_mm_align.model.huggingface_reader import FLOATS, WeightFiles

_log = logging.getLogger(__name__)

_QUANTISED = re.compile(
    r"(_scale(_inv|_2)?|_zero_point|\.(scale|scales|qweight|qzeros|g_idx|SCB|absmax|quant_map)"
    r"|\.weight_(format|packed|shape|g_idx)|\.quant_state\..*|\.absmax|\.nested_\w+|(input|weight|output|k|v)_scale)$"
)
"""What FP8, int8, compressed-tensors, GPTQ, AWQ and bitsandbytes store beside the weights that they change."""

_FOLLOWING = re.compile(r"\.(rotary_emb\.inv_freq|position_ids)$")
"""What older versions of transformers stored although it follows from the configuration."""


def check_extras(files: WeightFiles, config: LlavaConfig, head: bool = False) -> None:
    """Refuse scales of quantised weights, warn of other tensors that transformers would not read either.

    Args:
        head: the folder's config.json speaks of a head.

    Raises:
        UserError: a tensor's name says that weights beside it are scaled; it names file and tensor.
    """
    check_formats(files)
    expected = {piece.name for piece in weight_pieces(config, ParallelConfig())}
    expected |= {OUTPUT, *uncomputed_vision_shapes(config), *([HEAD] if head else [])}
    unread = [files.key(name) for name in files if name not in expected and not _FOLLOWING.search(name)]
    if unread:
        some = ", ".join(sorted(unread)[:3]) + (" ..." if len(unread) > 3 else "")
        _log.warning(
            "%s: %d tensors belong to no part of the model and are not computed, as in transformers: %s",
            files.path(next(iter(files))).parent,
            len(unread),
            some,
        )


def check_formats(files: WeightFiles) -> None:
    """Raise `UserError` naming the first tensor that only quantised weights have beside them."""
    for name in files:
        if _QUANTISED.search(name):
            raise UserError(
                f"{files.path(name)}: tensor {files.key(name)} belongs to quantised weights, which this engine does not "
                f"open ({', '.join(FLOATS)} are). Give the model before quantisation, or save it dequantised."
            )
