"""One rank of test_rating.py: reads the same answers in one layout after the other, and writes what came out."""

from __future__ import annotations

import sys
from pathlib import Path

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.inference.rating import Rater, rate_answers
from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.model.head_config import HeadConfig
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.source import build_from, open_source
from nemo_mm_align.schema.records import Turn
from tests.parallel.each_layout import in_each_layout

LAYOUTS = {"dp2": ParallelConfig(), "tp2": ParallelConfig(2, 1, sequence_parallel=True), "pp2": ParallelConfig(1, 2)}
HEAD = HeadConfig(("depth", "tone", "length"), "mean")
PROMPTS = [("<image>\nIs there a triangle?", ("yes", "no there is no triangle", "five")), ("a tallest bar?", ("five",))]
PROMPTS += [(f"<image>\n{'blue ' * number}?", ("red", "a red circle and blue square")) for number in range(1, 6)]


def samples(folder: Path, encoder) -> list[Sample]:
    found = []
    for place, (question, texts) in enumerate(PROMPTS):
        images = [folder / f"{place % 3}.png"] if "<image>" in question else []
        sequences = encoder.encode_answers([Turn(role="user", content=question)], texts)
        found.append(Sample(f"p{place}", images, sequences))
    return found


def rate(folder: Path, parallel: ParallelConfig) -> dict[str, list]:
    source = open_source(folder / "model")
    encoder = source.encoder(source.template(None), None)
    model = build_from(source, parallel, EngineConfig("fp32"), head=HEAD)
    asked = samples(folder, encoder)
    small = (encoder, source.image_processor())
    found = {
        "outputs": rate_answers(Rater(model, *small, "mean", max_batch_tokens=100), asked, progress=False),
        "hidden": rate_answers(Rater(model, *small, "last", "hidden"), asked, progress=False),
    }
    done = frozenset(range(1, len(asked)))
    resumed = list(Rater(model, *small, "mean", max_batch_tokens=100).stream(asked, done, progress=False))
    assert [index for part in resumed for index in part] == ([0] if runtime.rank() == 0 else [])
    assert model.training
    assert runtime.rank() == 0 or found == {"outputs": [], "hidden": []}
    return {name: [value.tolist() for value in values] for name, values in found.items()}


if __name__ == "__main__":
    in_each_layout(LAYOUTS, rate, Path(sys.argv[1]), Path(sys.argv[2]))
