"""Part ``sampling``: `sample`'s way of answering, in which rows are refilled as they end, against fixed batches.

Lengths have a heavy tail: a share of the vocabulary are stop tokens, each prompt's share is its own, drawn by a seed. Neither way
knows a length beforehand. Both draw the same tokens but where a draw lies within rounding of the next token's share: the table
says for how many prompts some answer differs.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from nemo_mm_align.benchmarks.agreed import SEED
from nemo_mm_align.benchmarks.machine import load_average
from nemo_mm_align.benchmarks.pairs import PairSizes, draw_pairs
from nemo_mm_align.benchmarks.random_models import SPECIAL
from nemo_mm_align.benchmarks.timing import Timing, alternate, speedup
from nemo_mm_align.inference.decode import answer_batch
from nemo_mm_align.inference.generator import Answers, Generator, Question
from nemo_mm_align.inference.loading import open_for_inference
from nemo_mm_align.inference.requests import make_requests
from nemo_mm_align.inference.rows import DecodingRequest
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.records import Prompt, Turn

Found = dict[int, Answers]


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Answer prompts with an image each in both ways, one after the other and the other way round."""
    config, work = LlavaConfig.from_dict(settings["sizes"]), settings["sampling"]
    opened = open_for_inference(Path(settings["folder"]) / "policy", ParallelConfig(), "fp32", settings["template"])
    runtime.initialize(opened.parallel, SEED)
    sampling = SamplingSettings(1.0, top_k=work["top_k"], max_new_tokens=work["most"], num_samples=work["samples"])
    sizes = replace(PairSizes(**settings["pairs"]), pairs=work["prompts"])
    requests = make_requests(_prompts(config, sizes, Path(settings["scratch"])), opened.encoder)
    longest = max(len(request.encoded.ids) for request in requests) + sampling.max_new_tokens
    generator = opened.generator(max_batch_tokens=work["slots"] * longest, graphs=False)
    stops = _stop_ids(config, work["stop_share"], work["prompts"])
    asked = [DecodingRequest(request.encoded, sampling, stop) for request, stop in zip(requests, stops, strict=True)]
    return {**_compared(generator, asked, work["rounds"]), "load_after": load_average()}


def _compared(generator: Generator, requests: Sequence[DecodingRequest], rounds: int) -> dict[str, Any]:
    found: dict[str, Found] = {}

    def fixed(asked: Sequence[DecodingRequest] = requests) -> None:
        found["fixed batches"] = _in_fixed_batches(generator, asked)

    def refilled(asked: Sequence[DecodingRequest] = requests) -> None:
        found["refilled"] = _refilled(generator, asked)

    fixed(requests[:1])
    refilled(requests[:1])
    ways = {"fixed batches": fixed, "refilled": refilled}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        order = list(ways.items()) if number % 2 == 0 else list(ways.items())[::-1]
        for name, timing in alternate(dict(order), 1, warmup=0).items():
            taken[name] += timing.seconds
    timings = {name: Timing(tuple(seconds)) for name, seconds in taken.items()}
    lengths = sorted(answer.num_tokens or 0 for answers in found["refilled"].values() for answer in answers)
    return {
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "tokens_per_second": {name: sum(lengths) / timing.median for name, timing in timings.items()},
        "speedup": speedup(timings["fixed batches"], timings["refilled"]),
        "answers": len(lengths),
        "differing_prompts": _differing(found["fixed batches"], found["refilled"]),
        "median_length": statistics.median(lengths),
        "longest": lengths[-1],
        "threads": torch.get_num_threads(),
    }


def _differing(one: Found, other: Found) -> int:
    return sum(one[place] != other[place] for place in one)


def _refilled(generator: Generator, requests: Sequence[DecodingRequest]) -> Found:
    found: Found = {}
    for ended in generator.run([Question(*asked, generator) for asked in enumerate(requests)], progress=False):
        found |= ended
    return dict(sorted(found.items()))


def _in_fixed_batches(generator: Generator, requests: Sequence[DecodingRequest]) -> Found:
    """Batch by batch, the longest prompts first, each to the last of its answers."""
    found: Found = {}
    for batch in fixed_batches(requests, generator.max_batch_tokens):
        asked = [requests[place] for place in batch]
        images = generator.load([path for one in asked for path in one.prompt.image_paths])
        answers = map(generator.candidate, answer_batch(generator.model, asked, images, graphs=generator.graphs))
        found |= {
            place: tuple(islice(answers, one.sampling.num_samples)) for place, one in zip(batch, asked, strict=True)
        }
    return dict(sorted(found.items()))


def fixed_batches(requests: Sequence[DecodingRequest], max_batch_tokens: int) -> list[list[int]]:
    """Put requests of similar length together, the longest first, as many as fit; return places in `requests`."""
    batches: list[list[int]] = []
    room = 0
    for place in sorted(range(len(requests)), key=lambda place: -requests[place].length):
        if room == 0:
            room = max(max_batch_tokens // (requests[place].length * requests[place].sampling.num_samples), 1)
            batches.append([])
        batches[-1].append(place)
        room -= 1
    return batches


def _prompts(config: LlavaConfig, sizes: PairSizes, folder: Path) -> list[Prompt]:
    """Questions of one word up to as many as `sizes` has, each about a picture of its own."""
    drawn, prompts = random.Random(SEED), []
    for number, pair in enumerate(draw_pairs(config, sizes, SEED)):
        path = folder / f"{number}.png"
        Image.fromarray(pair.pixels).save(path)
        words = " ".join(f"w{token}" for token in pair.prompt[: drawn.randint(1, len(pair.prompt))])
        prompts.append(
            Prompt(id=f"p{number}", images=(str(path),), turns=(Turn(role="user", content=f"<image>\n{words}"),))
        )
    return prompts


def _stop_ids(config: LlavaConfig, share: float, prompts: int) -> list[frozenset[int]]:
    """Each prompt's stop tokens, so many of the vocabulary's words in the median, at a spread of e to one or the other side."""
    drawn, words = random.Random(SEED), list(range(len(SPECIAL), config.language.vocab_size))
    drawn.shuffle(words)
    counts = [max(1, round(len(words) * share * drawn.lognormvariate(0, 1))) for _ in range(prompts)]
    return [frozenset(words[:count]) for count in counts]
