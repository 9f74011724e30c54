"""LLaVA folders of any size with random weights, in Hugging Face format with tokenizer and processor."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.model.huggingface_config import hf_config_from_llava
from nemo_mm_align.model.huggingface_names import file_name, uncomputed_vision_shapes, weight_pieces
from nemo_mm_align.model.huggingface_origin import Origin, write_json
from nemo_mm_align.model.huggingface_writer import Entry, ShardWriter, dtype_name
from nemo_mm_align.schema.images import ImageProcessor

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PAD_ID, END_ID, IMAGE_ID = 0, 2, 4
END_WORD = SPECIAL[END_ID]
_SPREAD = 0.04
_SHARD_BYTES = 500_000_000


def write_random_model(folder: Path, config: LlavaConfig, seed: int, dtype: torch.dtype = torch.float32) -> int:
    """Write a model folder tensor by tensor; no two tensors are in memory together.

    Args:
        folder: to be made.
        config: sizes; the image token must be `IMAGE_ID`.
        seed: of every number.
        dtype: of all weights.

    Returns:
        Bytes of the weights that this engine computes with.
    """
    from nemo_mm_align.model.huggingface_export import (
        Companions,
    )  # megatron-core comes along, which a peer's process is without

    assert config.image_token_id == IMAGE_ID
    folder.mkdir(parents=True)
    computed = {piece.name: piece.shape for piece in weight_pieces(config, ParallelConfig())}
    entries = {
        name: Entry(file_name(name), dtype_name(dtype), shape)
        for name, shape in (computed | uncomputed_vision_shapes(config)).items()
    }
    with ShardWriter(folder, list(entries.values()), max_shard_bytes=_SHARD_BYTES) as writer:
        for name, entry in entries.items():
            writer.write(_draw(name, entry.shape, seed, dtype))
    values = hf_config_from_llava(config, str(dtype).removeprefix("torch."))
    write_json(folder / "config.json", values)
    words_tokenizer(config.language.vocab_size).save_pretrained(folder)
    processor = ImageProcessor(image_size=config.vision.image_size)
    Companions(None, processor.to_hf(), {"pad_token_id": PAD_ID}).write(folder, Origin(values, {}))
    return sum(entries[name].num_bytes for name in computed)


def _draw(name: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    """Matrices around zero, norms around one: equal norms would hide swapped ones."""
    generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
    tensor = torch.empty(shape, dtype=dtype).normal_(0, _SPREAD, generator=generator)
    is_norm = "norm" in name and name.endswith("weight")
    return tensor + 1 if is_norm else tensor


def words_tokenizer(vocabulary: int) -> Any:
    """A tokenizer whose token i is the word ``w<i>`` behind a few special tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), vocabulary))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        model_input_names=["input_ids", "attention_mask"],
    )
