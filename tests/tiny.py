"""A tiny LLaVA as a Hugging Face folder, every tensor randomised, and small data for it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from nemo_mm_align.schema.images import ImageProcessor
from tests.unit.toy_tokenizers import llama_like

WORDS = "a red circle and blue square there is no triangle in the image I think yes five tallest bar shows".split()  # noqa: SIM905


def tiny_llava(folder: Path, seed: int = 0, tied: bool = False, layers: int = 4) -> Path:
    """Save a random LLaVA: 4 layers, 4 heads over 2 KV heads, odd vocabulary, feature layer -2, 4 tokens per image."""
    tokenizer = llama_like()
    vocabulary = len(tokenizer) + (len(tokenizer) + 1) % 2  # odd, so that TP 2 has to pad
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            image_size=28, patch_size=14, projection_dim=32,
        ),
        text_config=LlamaConfig(
            hidden_size=48, intermediate_size=80, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=vocabulary, max_position_embeddings=512, tie_word_embeddings=tied, rms_norm_eps=1e-5,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.2 if parameter.dim() == 1 else 1.5 / parameter[0].numel() ** 0.5
            parameter.copy_(noise * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(ImageProcessor(image_size=28).to_hf()))
    return folder


def sentence(source: random.Random, words: int) -> str:
    """Words of the toy vocabulary."""
    return " ".join(source.choices(WORDS, k=words))


def training_data(folder: Path, kind: str, count: int = 12, seed: int = 0) -> Path:
    """Write `count` records of ``sft``, ``steerlm``, ``preference`` or ``labelled`` with images; every third is text alone.

    Every second labelled answer is undesirable.
    """
    source = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        image = index % 3 != 2
        if image:
            colour = tuple(source.randrange(256) for _ in range(3))
            Image.new("RGB", (40, 24 + index), colour).save(folder / f"{index}.png")
        question = ("<image>\n" if image else "") + f"{sentence(source, 3 + index % 4)}?"
        record = {"id": f"r{index}", "images": [f"{index}.png"] if image else []}
        turns = [{"role": "user", "content": question}]
        if kind == "labelled":
            record |= {"turns": turns, "answer": sentence(source, 2 + index % 6), "label": index % 2 == 0}
        elif kind == "preference":
            record |= {"turns": turns, "chosen": sentence(source, 3 + index % 5), "rejected": sentence(source, 9)}
        else:
            record["turns"] = [*turns, {"role": "assistant", "content": sentence(source, 2 + index % 6)}]
        if kind == "steerlm":
            names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
            record["attributes"] = {name: source.randrange(5) for name in names}
        lines.append(json.dumps(record))
    path = folder / f"{kind}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
