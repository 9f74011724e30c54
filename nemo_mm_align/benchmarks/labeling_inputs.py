"""Prompts and candidates of any number for the labelling benchmark, and what the judge server calls their questions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy
from PIL import Image

from nemo_mm_align.benchmarks.judge_server.server import question_id
from nemo_mm_align.schema.records import Candidate, CandidateSet, Prompt, Turn, read_records, write_records

IMAGE_SIZE = 336
CANDIDATES = 4
SENTENCES, WORDS = 5, 12
"""Of a candidate, and of a sentence."""


def write_inputs(folder: Path, count: int, images: int = 0) -> None:
    """Write ``prompts.jsonl`` and ``candidates.jsonl``; prompt i shows image i % `images` (336 x 336 JPEG) if there are any."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for index in range(images):
        draw_image(index).save(folder / f"images/{index}.jpg", quality=90)
    write_records(folder / "prompts.jsonl", (_prompt(index, images) for index in range(count)))
    write_records(folder / "candidates.jsonl", _candidates(count))


def draw_image(seed: int) -> Image.Image:
    """Return a picture of soft random blots, which compresses about as well as a photograph."""
    coarse_HWC = numpy.random.default_rng(seed).integers(
        0, 256, (IMAGE_SIZE // 8, IMAGE_SIZE // 8, 3), dtype=numpy.uint8
    )
    return Image.fromarray(coarse_HWC).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def questions(folder: Path) -> dict[str, str]:
    """Return per prompt id the identifier of its question on the server."""
    images = {prompt.id: prompt.images for prompt in read_records(folder / "prompts.jsonl", Prompt)}
    found = {}
    for entry in read_records(folder / "candidates.jsonl", CandidateSet):
        data = [(folder / path).read_bytes() for path in images[entry.prompt_id]]
        found[entry.prompt_id] = question_id(data, [candidate.text for candidate in entry.candidates])
    return found


def _prompt(index: int, images: int) -> Prompt:
    question = f"What can be said about this, case {index}?"
    paths = (f"images/{index % images}.jpg",) if images else ()
    return Prompt(
        id=f"p{index}", images=paths, turns=(Turn(role="user", content="<image>\n" * bool(images) + question),)
    )


def _candidates(count: int) -> Iterator[CandidateSet]:
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(2000)]
    sentences = [" ".join(rng.choices(vocabulary, k=WORDS)) + "." for _ in range(2000)]
    for index in range(count):
        texts = [f"{number} {index}: " + " ".join(rng.choices(sentences, k=SENTENCES)) for number in range(CANDIDATES)]
        yield CandidateSet(prompt_id=f"p{index}", candidates=tuple(Candidate(text=text) for text in texts))
