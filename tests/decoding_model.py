"""A tiny LLaVA folder that can be spoken to: weights of `tiny_llava`, a word tokenizer, an image processor, prompts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy
import tokenizers
from PIL import Image
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.records import Prompt, Turn, write_records
from tests.tiny_llava import IMAGE_SIZE, IMAGE_TOKEN, VOCABULARY, make_llava

GREEDY = SamplingSettings(temperature=0, max_new_tokens=24)
SAMPLED = SamplingSettings(temperature=0.8, top_k=30, top_p=0.95, max_new_tokens=16, num_samples=3, seed=5)
STOP_IDS = [2, 11, 12, 13, 14]
TEMPLATE = {
    "name": "tiny",
    "user_prefix": "USER: ",
    "user_suffix": " ",
    "assistant_prefix": "ASSISTANT:",
    "stop": "</s>",
}
SPECIAL = ["<unk>", "<s>", "</s>"]
WORDS = [f"w{number}" for number in range(VOCABULARY - len(SPECIAL) - 3)]


def make_folder(folder: Path) -> Path:
    """Write a Hugging Face folder that `scripts/sample.py` takes with ``template=vicuna_v1``."""
    make_llava(folder)
    vocabulary = {word: place for place, word in enumerate([*SPECIAL, "USER:", "ASSISTANT:", *WORDS])}
    assert len(vocabulary) == IMAGE_TOKEN
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    wrapped.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert wrapped.convert_tokens_to_ids("<image>") == IMAGE_TOKEN
    wrapped.save_pretrained(folder)
    processor = ImageProcessor(image_size=IMAGE_SIZE).to_hf()
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def make_prompts(folder: Path, count: int, seed: int = 0) -> Path:
    """Write prompts of unequal length with zero, one or two of three images; return the JSONL file."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for number in range(3):
        noise_HW = numpy.random.default_rng(number).integers(0, 256, (30, 40 + 9 * number), dtype=numpy.uint8)
        Image.fromarray(noise_HW).convert("RGB").save(folder / f"{number}.png")
    prompts = []
    for number in range(count):
        images = tuple(f"{rng.randrange(3)}.png" for _ in range(number % 3))
        words = [rng.choice(WORDS) for _ in range(rng.randint(1, 12))]
        for _ in images:
            words.insert(rng.randint(0, len(words)), "<image>")
        prompts.append(Prompt(id=f"p{number}", images=images, turns=(Turn(role="user", content=" ".join(words)),)))
    path = folder / "prompts.jsonl"
    write_records(path, prompts)
    return path
