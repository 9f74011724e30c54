"""A tiny LLaVA with random weights and preference pairs for it, made on the spot.

``python -m nemo_mm_align.verify.training_inputs FOLDER`` writes ``model`` and ``pairs.jsonl`` there.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from nemo_mm_align.benchmarks.random_models import IMAGE_ID, SPECIAL, write_random_model
from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, VisionConfig
from nemo_mm_align.verify.training import MODEL, PAIRS

CONFIG = LlavaConfig(
    LanguageConfig(4, 128, 256, 8, 512, num_query_groups=4, max_position_embeddings=512),
    VisionConfig(3, 64, 128, 4, 56, 14),
    image_token_id=IMAGE_ID,
)
_PAIRS, _SIDE = 32, 56


def write(folder: Path) -> None:
    """Write model and data; every third pair is text alone."""
    write_random_model(folder / MODEL, CONFIG, seed=0)
    source = random.Random(0)
    write_lines(folder / PAIRS, [json.dumps(_pair(folder, number, source)) for number in range(_PAIRS)])


def _pair(folder: Path, number: int, source: random.Random) -> dict[str, object]:
    from PIL import Image

    with_image = number % 3 != 2
    if with_image:
        colour = tuple(source.randrange(256) for _ in range(3))
        Image.new("RGB", (_SIDE, _SIDE), colour).save(folder / f"{number}.png")
    question = ("<image>\n" if with_image else "") + _words(source, 3 + number % 5)
    return {
        "id": f"pair-{number}",
        "images": [f"{number}.png"] if with_image else [],
        "turns": [{"role": "user", "content": question}],
        "chosen": _words(source, 4 + number % 7),
        "rejected": _words(source, 12 - number % 5),
    }


def _words(source: random.Random, count: int) -> str:
    vocabulary = range(len(SPECIAL), CONFIG.language.vocab_size)
    return " ".join(f"w{word}" for word in source.sample(vocabulary, count))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
