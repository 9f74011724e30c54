"""A tiny LLaVA in Hugging Face format and rows for it: random tensors, odd vocabulary, fewer KV heads than heads."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.sample import CHOSEN_OTHER_IMAGE, Sample, View
from nemo_mm_align.model.config import LoRAConfig
from nemo_mm_align.schema.crops import Crop
from nemo_mm_align.schema.prompts import EncodedSequence

VOCABULARY, IMAGE_TOKEN, PAD, TOKENS_PER_IMAGE, IMAGE_SIZE = 99, 98, 0, 4, 28
LORA = LoRAConfig(rank=4, alpha=8, dropout=0.0)


def make_llava(folder: Path, tied: bool = False, dtype: torch.dtype = torch.float32, shard_size: str = "5GB") -> Path:
    """Write a random `LlavaForConditionalGeneration`; norms and biases are random too, so that swapped ones show."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=28, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, tie_word_embeddings=tied, rms_norm_eps=1e-5,
    )  # fmt: skip
    config = LlavaConfig(vision, text, image_token_index=IMAGE_TOKEN, tie_word_embeddings=tied)
    model = LlavaForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.ndim == 1 else noise / parameter.shape[-1] ** 0.5)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def load_pixels(path: Path, crop: Crop | None = None) -> numpy.ndarray:
    """Pixels that depend on the name and the part alone; there is no file."""
    generator = numpy.random.default_rng(zlib.crc32(f"{path.name}{crop or ''}".encode()))
    return generator.standard_normal((3, IMAGE_SIZE, IMAGE_SIZE), dtype=numpy.float32)


def sequence(parts: Sequence[int | str], seed: int) -> EncodedSequence:
    """Make a conversation of parts: an int is so many text tokens, ``"a5"`` 5 answer tokens, ``"image"`` an image."""
    generator = numpy.random.default_rng(seed)
    result = EncodedSequence([], [])
    for part in parts:
        if part == "image":
            ids = [IMAGE_TOKEN] * TOKENS_PER_IMAGE
        else:
            count = part if isinstance(part, int) else int(part[1:])
            ids = [int(token) for token in generator.integers(1, IMAGE_TOKEN, count)]
        result.ids += ids
        result.loss_mask += [isinstance(part, str) and part.startswith("a")] * len(ids)
    return result


def samples(number: int) -> list[Sample]:
    """Four rows: two images in turns with answers between, one image, text only, short text; lengths all differ."""
    kinds: list[list[int | str]] = [
        [2, "image", 2, "a3", 1, "image", 1, "a5"],
        ["image", 3, "a2"],
        [4, "a7", 2, "a1"],
        [2, f"a{1 + number}"],
    ]
    result = []
    for row, parts in enumerate(kinds):
        paths = [Path(f"{number}-{row}-{i}.png") for i in range(parts.count("image"))]
        result.append(Sample(f"{number}-{row}", paths, [sequence(parts, seed=10 * number + row)]))
    return result


def micro_batch(number: int, length: int = 24) -> Batch:
    """Rows of `samples` as one micro batch, padded on the right."""
    return collate(samples(number), length, PAD, IMAGE_TOKEN, TOKENS_PER_IMAGE, load_pixels)


def image_pair(number: int) -> Sample:
    """Chosen and rejected, and where there is an image, in even numbers, chosen beside a part of it."""
    pair = candidates(number, 2)
    if number % 2:
        texts = [
            EncodedSequence(*(part[2 + TOKENS_PER_IMAGE :] for part in (s.ids, s.loss_mask))) for s in pair.sequences
        ]
        return Sample(pair.id, [], texts, roles=("chosen", "rejected"))
    views: tuple[View, ...] = ((), (), (Crop(0.01, 0.2, number),))
    roles = ("chosen", "rejected", CHOSEN_OTHER_IMAGE)
    return Sample(pair.id, pair.image_paths, [*pair.sequences, pair.sequences[0]], roles=roles, views=views)


def candidates(number: int, answers: int = 3) -> Sample:
    """One prompt with an image and several answers of unequal length."""
    prompt = [2, "image", 5]
    sequences = []
    for answer in range(answers):
        whole = sequence([*prompt, f"a{2 + 3 * answer}"], seed=number)
        tail = sequence([f"a{2 + 3 * answer}"], seed=100 * number + answer)
        start = len(whole.ids) - len(tail.ids)
        sequences.append(EncodedSequence(whole.ids[:start] + tail.ids, whole.loss_mask))
    return Sample(f"pack-{number}", [Path(f"pack-{number}.png")], sequences)
