"""What the goldens are made of: a tiny model, training data with pictures, questions. Drawn once; the files are stored.

    python -m tests.golden.make.inputs OUT

torch's normal deviates differ by a rounding between instruction sets, so that the stored files count and not their seeds.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy
from PIL import Image

from tests.tiny import sentence, tiny_llava

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
SAMPLES, QUESTIONS, PICTURES = 12, 24, 6


def picture(path: Path, seed: int) -> None:
    """Save noise in blocks, wide and high in turn, so that resizing, padding and colours count."""
    source = numpy.random.default_rng(seed)
    blocks_HWC = source.integers(0, 256, (4 + seed % 3, 5 + seed % 2, 3), dtype=numpy.uint8)
    Image.fromarray(blocks_HWC.repeat(6 + seed, 0).repeat(7, 1)).save(path)


def record(index: int, kind: str, source: random.Random) -> dict[str, object]:
    """One training record; every third is text alone, every fourth has two turns."""
    image = index % 3 != 2
    turns = [{"role": "user", "content": ("<image>\n" if image else "") + f"{sentence(source, 3 + index % 4)}?"}]
    if index % 4 == 1:
        turns += [{"role": "assistant", "content": sentence(source, 4)}, {"role": "user", "content": "five?"}]
    made: dict[str, object] = {"id": f"r{index}", "images": [f"{index % PICTURES}.png"] if image else []}
    if kind == "preference":
        return {**made, "turns": turns, "chosen": sentence(source, 3 + index % 5), "rejected": sentence(source, 9)}
    made["turns"] = [*turns, {"role": "assistant", "content": sentence(source, 2 + index % 6)}]
    if kind == "steerlm":
        made["attributes"] = {name: source.randrange(5) for name in ATTRIBUTES}
    return made


def write(path: Path, records: list[dict[str, object]]) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(item) + "\n" for item in records), encoding="utf-8")


def questions(source: random.Random) -> list[dict[str, object]]:
    """Prompts for sampling, with no, one and two pictures."""
    made: list[dict[str, object]] = []
    for index in range(QUESTIONS):
        images = [f"{source.randrange(PICTURES)}.png" for _ in range(index % 3)]
        text = "<image>\n" * len(images) + f"{sentence(source, 2 + index % 5)}?"
        made.append({"id": f"q{index}", "images": images, "turns": [{"role": "user", "content": text}]})
    return made


def main(out: Path) -> None:
    """Write ``model`` and ``data``."""
    tiny_llava(out / "model")
    data = out / "data"
    data.mkdir()
    for number in range(PICTURES):
        picture(data / f"{number}.png", number)
    for kind in ("sft", "steerlm", "preference"):
        source = random.Random(kind)
        write(data / f"{kind}.jsonl", [record(index, kind, source) for index in range(SAMPLES)])
    write(data / "questions.jsonl", questions(random.Random("questions")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
