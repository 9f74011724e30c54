"""Part ``data``: from records and picture files to a batch, against transformers' processor; how many processes a rank needs.

Both sides decode, resize and normalise pictures, write texts with the chat template, tokenise, and pad to one batch; ours also
marks what is learnt and what belongs together. Ids must be the same, and pixels those of transformers' processor on Pillow; its
fast one, on torchvision, rounds otherwise: how far they differ is reported.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nemo_mm_align.benchmarks.gpu.shapes import lora_config, model_config
from nemo_mm_align.benchmarks.input_report import FAST, OURS, SLOW
from nemo_mm_align.benchmarks.machine import load_average
from nemo_mm_align.benchmarks.random_models import PAD_ID, SPECIAL
from nemo_mm_align.benchmarks.recipes import IMITATION, PREFERENCE
from nemo_mm_align.benchmarks.timing import Timing, alternate, speedup
from nemo_mm_align.capacity.gpus import find_gpu
from nemo_mm_align.capacity.job import TrainingJob, Workload
from nemo_mm_align.capacity.steptime import step_time
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.rows import batch_length
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.parallel.source import open_source
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.images import load_image
from nemo_mm_align.schema.records import Turn

SEED = 1234
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png"}
_EQUAL = 1e-5
"""Of normalised pixels."""


@dataclass(frozen=True)
class Record:
    """A question about a picture, and its answer."""

    picture: Path
    turns: tuple[Turn, Turn]


Made = dict[str, Tensor]
"""``input_ids`` [B, S] and ``pixel_values`` [B, C, H, W]."""
Maker = Callable[[Sequence[Record]], Made]


class Batches(Dataset[Made]):
    """Batches of so many records, made when they are asked for."""

    def __init__(self, records: Sequence[Record], size: int, make: Maker) -> None:
        self.records, self.size, self.make = records, size, make

    def __len__(self) -> int:
        return math.ceil(len(self.records) / self.size)

    def __getitem__(self, number: int) -> Made:
        return self.make(self.records[number * self.size : (number + 1) * self.size])


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Make all batches on every side in turn, with every number of loader processes, from JPEG and from PNG files."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a loader process is one thread, as in a training
    work, folder = settings["data"], Path(settings["folder"]) / "policy"
    template = ChatTemplate.from_config(settings["template"])
    sides = {OURS: _ours(folder, template), SLOW: _peer(folder, template, False)}
    if find_spec("torchvision") is not None:  # else transformers would take the slow one
        sides[FAST] = _peer(folder, template, True)
    lines = []
    for kind in _SUFFIXES:
        records = _records(settings, kind)
        differences = _compared(sides, records[: work["batch"]])
        batches = Batches(records, work["batch"], sides[OURS])
        tokens = sum(int((batches[number]["input_ids"] != PAD_ID).sum()) for number in range(len(batches)))
        for workers in work["workers"]:
            timings = _timed(sides, records, work["batch"], workers, work["rounds"])
            rates = {name: len(records) / timing.median for name, timing in timings.items()}
            lines.append(
                {
                    "kind": kind,
                    "bytes": sum(record.picture.stat().st_size for record in records) / len(records),
                    "workers": workers,
                    "images_per_second": rates,
                    "tokens_per_second": {name: tokens / timing.median for name, timing in timings.items()},
                    "speedup": {name: speedup(timings[name], timings[OURS]) for name in differences},
                    "differences": differences,
                    "load_after": load_average(),
                }
            )
    return {"lines": lines, "gpu": work["gpu"], "needed": needed_images(work["gpu"], work["micro_batch"])}


def needed_images(gpu: str, micro_batch: int) -> dict[str, float]:
    """Return the pictures a second that a GPU trains a 7B model on, by the estimator: adapters, pairs and single answers."""
    config, found = model_config("7b"), {}
    for method in (PREFERENCE, IMITATION):
        job = TrainingJob(
            config=config,
            parallel=ParallelConfig(),
            engine=EngineConfig("bf16"),
            lora=lora_config("7b"),
            method=method,
            workload=Workload(config.language.max_position_embeddings),
            nodes=1,
            gpus_per_node=1,
            micro_batch_size=micro_batch,
            global_batch_size=micro_batch,
            shared_prefix=True,
        )
        found[method] = job.images / step_time(job, find_gpu(gpu)).total
    return found


def _timed(
    sides: dict[str, Maker], records: Sequence[Record], size: int, workers: int, rounds: int
) -> dict[str, Timing]:
    loaders = {
        name: DataLoader(
            Batches(records, size, make), batch_size=None, num_workers=workers, persistent_workers=workers > 0
        )
        for name, make in sides.items()
    }  # their processes start in the round that does not count

    def drained(loader: DataLoader[Made]) -> Callable[[], object]:
        return lambda: [None for _ in loader]

    return alternate({name: drained(loader) for name, loader in loaders.items()}, rounds)


def _compared(sides: dict[str, Maker], records: Sequence[Record]) -> dict[str, float]:
    """Return the largest difference of normalised pixels to each peer.

    Raises:
        RuntimeError: the ids differ, or the pixels of the processor that works as ours does.
    """
    made = {name: make(records) for name, make in sides.items()}
    ours, found = made.pop(OURS), {}
    for name, theirs in made.items():
        found[name] = float((ours["pixel_values"] - theirs["pixel_values"]).abs().max())
        if _ids(ours) != _ids(theirs) or (name == SLOW and found[name] > _EQUAL):
            raise RuntimeError(f"{name} makes another batch than ours; pixels differ by up to {found[name]:g}")
    return found


def _ids(made: Made) -> list[list[int]]:
    return [row[row != PAD_ID].tolist() for row in made["input_ids"]]


def _ours(folder: Path, template: ChatTemplate) -> Maker:
    source = open_source(folder)
    encoder, processor = source.encoder(template, None), source.image_processor()

    def make(records: Sequence[Record]) -> Made:
        samples = [
            Sample(record.picture.name, [record.picture], [encoder.encode_example(record.turns)]) for record in records
        ]
        batch = collate(
            samples,
            batch_length(samples, 1, False, last_token=True),
            PAD_ID,
            encoder.image_token_id,
            encoder.tokens_per_image,
            lambda path, _: processor(load_image(path)),
            last_token=True,
        )
        assert batch.images_NCHW is not None
        return {"input_ids": batch.input_ids_BS, "pixel_values": batch.images_NCHW}

    return make


def _peer(folder: Path, template: ChatTemplate, fast: bool) -> Maker:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, use_fast=fast)

    def make(records: Sequence[Record]) -> Made:
        pictures = [Image.open(record.picture).convert("RGB") for record in records]
        made = processor(
            images=pictures, text=[_text(template, record) for record in records], padding=True, return_tensors="pt"
        )
        return {name: made[name] for name in ("input_ids", "pixel_values")}

    return make


def _text(template: ChatTemplate, record: Record) -> str:
    text, spans = template.render_spans(record.turns, False)
    return text[: spans[-1][1]]


def _records(settings: dict[str, Any], kind: str) -> list[Record]:
    work, sizes, source = settings["data"], settings["pairs"], random.Random(SEED)
    vocabulary = settings["sizes"]["language"]["vocab_size"]

    def words(least: int, most: int) -> str:
        return " ".join(f"w{source.randrange(len(SPECIAL), vocabulary)}" for _ in range(source.randint(least, most)))

    records = []
    for number in range(work["pictures"]):
        path = Path(settings["scratch"]) / f"{number}{_SUFFIXES[kind]}"
        _write_picture(path, kind, (work["width"], work["height"]), number)
        question, answer = words(1, sizes["prompt_words"]), words(*sizes["answer_words"])
        asked = Turn(role="user", content=f"<image>\n{question}")
        records.append(Record(path, (asked, Turn(role="assistant", content=answer))))
    return records


def _write_picture(path: Path, kind: str, size: tuple[int, int], seed: int) -> None:
    """Soft shapes with a camera's noise: a file about as large as that of a photograph."""
    generator = numpy.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=numpy.uint8))
    soft = numpy.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=numpy.float64)
    noisy = soft + generator.normal(0, 4, soft.shape)
    Image.fromarray(noisy.clip(0, 255).astype(numpy.uint8)).save(path, kind)
