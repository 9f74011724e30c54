"""One rank of test_decoding.py: answers the same prompts in the layout given, in float64, and writes what came out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from nemo_mm_align.inference.decode import ImageBatch, generate_batch
from nemo_mm_align.inference.generator import Generator
from nemo_mm_align.inference.loading import OpenedModel, open_for_inference
from nemo_mm_align.inference.requests import Request, make_requests
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.stage import DecodingStage
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime
from nemo_mm_align.records import Prompt, read_records
from tests.decoding_model import GREEDY, SAMPLED, STOP_IDS, TEMPLATE
from tests.float64 import Float64


def images_of(generator: Generator, requests: list[Request]) -> ImageBatch | None:
    return generator._load([path for request in requests for path in request.encoded.image_paths])


def tokens(generator: Generator, requests: list[Request], settings: SamplingSettings) -> list:
    encoded = [request.encoded for request in requests]
    answers = generate_batch(generator.model, encoded, images_of(generator, requests), settings, STOP_IDS)
    return [[[answer.ids, answer.finish_reason] for answer in row] for row in answers]


def cache_error(generator: Generator, requests: list[Request], steps: int = 4) -> float:
    """Largest relative difference of logits, decoded with a cache in one padded batch or computed afresh row by row."""
    model, drawn = generator.model, torch.Generator().manual_seed(1)
    lengths = [len(request.encoded.ids) for request in requests]
    new = torch.randint(5, 90, (len(requests), steps), generator=drawn)
    padding = max(lengths) - torch.tensor(lengths)
    ids = torch.tensor([[0] * int(pad) + item.encoded.ids for pad, item in zip(padding, requests, strict=True)])
    ids = torch.cat([ids, new], dim=1)
    columns = torch.arange(ids.shape[1])
    positions = (columns - padding.unsqueeze(1)).clamp_min(0)
    visible = (columns >= padding.unsqueeze(1)).unsqueeze(1) & (columns.unsqueeze(1) >= columns)
    visible |= torch.eye(len(columns), dtype=torch.bool)
    images, worst = images_of(generator, requests), 0.0
    cached, start = DecodingStage(model, ids.shape[1]), 0
    for step in range(steps + 1):
        end = max(lengths) + step
        part = (ids[:, start:end], positions[:, start:end], visible[:, None, start:end, :end])
        logits = cached.forward(*part, *((images.pixels_NCHW, images.index_K) if images and start == 0 else ()))
        start = end
        for row, request in enumerate(requests):
            fresh, own = DecodingStage(model, end), ids[row : row + 1, int(padding[row]) : end]
            pictures = images_of(generator, [request])
            pixels = (pictures.pixels_NCHW, pictures.index_K) if pictures else ()
            expected = fresh.forward(own, torch.arange(own.shape[1]).unsqueeze(0), None, *pixels)
            if logits is not None:
                finite = expected[0].isfinite()
                difference = (logits[row] - expected[0])[finite].abs().max() / expected[0][finite].abs().max()
                worst = max(worst, float(difference))
    return worst


def check(opened: OpenedModel, prompts: Path, out: Path) -> None:
    found = list(read_records(prompts, Prompt))
    requests = make_requests(found, opened.encoder, resolve=lambda path: prompts.parent / path)
    generator = opened.generator(max_batch_tokens=32768)
    generator.model.eval()
    with torch.no_grad():
        error = torch.tensor([cache_error(generator, requests[:5])])
    runtime.broadcast_from_last_stage(error)
    small = opened.encoder, opened.image_processor, 1000
    result = {
        "layout": runtime.layout(),
        "greedy": tokens(generator, requests, GREEDY),
        "sampled": tokens(generator, requests, SAMPLED),
        "one_by_one": [tokens(generator, [request], SAMPLED)[0] for request in reversed(requests)][::-1],
        "records": [
            record.model_dump(mode="json")
            for record in Generator(generator.model, *small).generate(
                found, SAMPLED, [None, {"verbosity": 0}], lambda path: prompts.parent / path, progress=False
            )
        ],
        "cache_error": float(error),
    }
    if runtime.rank() == 0:
        out.write_text(json.dumps(result), encoding="utf-8")


def main(folder: str, prompts: str, out: str, tensor: str, pipeline: str, first: str) -> None:
    from nemo_mm_align.attributes import AttributeSchema

    schema = AttributeSchema.model_validate_json((Path(prompts).parent / "schema.json").read_text(encoding="utf-8"))
    parallel = ParallelConfig(int(tensor), int(pipeline), num_layers_in_first_pipeline_stage=int(first) or None)
    opened = open_for_inference(folder, parallel, "fp32", TEMPLATE, schema)
    runtime.initialize(parallel, seed=1)
    with Float64():
        check(opened, Path(prompts), Path(out))
    runtime.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
