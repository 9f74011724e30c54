"""One step's metrics and the image sensitivity of a tiny model, at one layout after the other.

torchrun --nproc-per-node 2 tests/parallel/health_worker.py MODEL RESULTS.json
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.mismatched import mismatched_samples
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED, Sample
from nemo_mm_align.model.config import EngineConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.model.huggingface import llava_config_from_hf, load_huggingface
from nemo_mm_align.model.llava import Llava, build_llava, set_trainable
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.crops import Crop
from nemo_mm_align.training.data import BatchShape, Collator
from nemo_mm_align.training.image_probe import Exchange, ImageProbe
from nemo_mm_align.training.step import PACKING_EFFICIENCY, TrainingEngine
from tests.parallel.each_layout import in_each_layout
from tests.tiny_llava import IMAGE_SIZE, IMAGE_TOKEN, PAD, TOKENS_PER_IMAGE, candidates, load_pixels

PAIRS = 5
LAYOUTS = {"tp2": ParallelConfig(2, 1, sequence_parallel=True), "pp2": ParallelConfig(1, 2), "dp2": ParallelConfig()}


class DrawnImages(Collator):
    """Batches whose pixels follow from the images' names."""

    def __init__(self) -> None:
        encoder = SimpleNamespace(pad_id=PAD, image_token_id=IMAGE_TOKEN, tokens_per_image=TOKENS_PER_IMAGE)
        processor = SimpleNamespace(image_size=IMAGE_SIZE)
        super().__init__(encoder, processor, BatchShape(2, shared_prefix=True), runtime.is_first_stage())  # type: ignore[arg-type]

    def _load(self, path: Path, crop: Crop | None) -> numpy.ndarray:
        return load_pixels(path, crop)


def pairs() -> list[Sample]:
    """A prompt with an image each, a chosen and a rejected answer, and what a reference says of them."""
    return [replace(candidates(n, 2), reference_log_probs=[-9.0 - n, -25.0 + n]) for n in range(PAIRS)]


def labelled() -> list[Sample]:
    """Three pairs, a desirable answer and an undesirable one, and what a reference says of them."""
    given: list[tuple[str, ...]] = [(CHOSEN, REJECTED), (CHOSEN,), (CHOSEN, REJECTED), (REJECTED,), (CHOSEN, REJECTED)]
    return [
        replace(candidates(n, len(roles)), roles=roles, reference_log_probs=[-9.0 - n, -25.0 + n][: len(roles)])
        for n, roles in enumerate(given)
    ]


def mismatched() -> list[Sample]:
    """Their prompts with the answers of others, and what a reference says of these."""
    made = mismatched_samples(labelled(), 40, str)
    return [replace(one, reference_log_probs=[-20.0 - n, -29.0][: len(one.sequences)]) for n, one in enumerate(made)]


def build(folder: Path, parallel: ParallelConfig, lora: LoRAConfig | None = None) -> Llava:
    model = build_llava(llava_config_from_hf(folder), parallel, EngineConfig(), lora=lora, initialize=False)
    load_huggingface(model, folder)
    return model


def probe(size: int = 2) -> ImageProbe:
    """Every pair with the image of the next one."""
    exchanges = [Exchange(n, (n + 1) % PAIRS) for n in range(PAIRS)]
    return ImageProbe(pairs(), exchanges, DrawnImages(), find_recipe("dpo").configured(), size)


def measure(folder: Path, parallel: ParallelConfig) -> dict[str, object]:
    """Return the metrics of a step on four pairs, and the effects of exchanged images."""
    model, collator, samples = build(folder, parallel), DrawnImages(), pairs()
    effects = {name: effect.model_dump() for name, effect in probe().measure(model).items()}
    set_trainable(model, language=True, projector=True, vision=False, adapters=False)
    engine = TrainingEngine(model, find_recipe("dpo").configured(), OptimConfig(), total_steps=9, seed=0)
    own = range(runtime.data_parallel_rank(), 4, runtime.data_parallel_size())
    metrics = engine.step([collator([samples[n]], collator.length(samples)) for n in own], 0).metrics
    return {"effects": effects, "metrics": metrics, "kto": kto_step(folder, parallel)}


def kto_step(folder: Path, parallel: ParallelConfig, size: int = 1, shared_prefix: bool = True) -> dict[str, float]:
    """Return the metrics of a step on four labelled samples."""
    model, collator = build(folder, parallel), DrawnImages()
    collator.shape, collator.roles = BatchShape(2, shared_prefix, equal_rows=True), find_recipe("kto").samples.roles
    set_trainable(model, language=True, projector=True, vision=False, adapters=False)
    engine = TrainingEngine(model, find_recipe("kto").configured(undesirable_weight=0.8), OptimConfig(), 9, seed=0)
    own = range(runtime.data_parallel_rank(), 4, runtime.data_parallel_size())
    places = [own[start : start + size] for start in range(0, len(own), size)]

    def batches(samples: list[Sample]) -> list[Batch]:
        parts, length = [[samples[n] for n in part] for part in places], collator.length(samples)
        return [collator(part, length, max(map(collator.rows, parts))) for part in parts]

    metrics = engine.step(batches(labelled()), 0, batches(mismatched())).metrics
    return {name: value for name, value in metrics.items() if name != PACKING_EFFICIENCY}  # rows of padding count in it


if __name__ == "__main__":
    in_each_layout(LAYOUTS, measure, Path(sys.argv[1]), Path(sys.argv[2]))
