"""Teaches the blank model's tower to see, before it learns words: stands for CLIP's pre-training of a real LLaVA's tower.

Every patch is to tell what its column of the image shows (colour, value of the bar, shape), by linear heads on the
features that the projector will read; the heads are thrown away. Labels within patches teach a tower of this size far
sooner than texts about whole images.

python -m nemo_mm_align.miniature.sight BLANK WORLD OUT '{"steps": 1500, "batch_size": 64, "lr": 0.002}' SEED

Shapes: N images, T patches, D labels per patch, C channels, H and W pixels, F classes of all labels.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nemo_mm_align.core.configuration import read
from nemo_mm_align.miniature.lexicon import COLOURS, SHAPES, VALUES
from nemo_mm_align.miniature.settings import SightSettings
from nemo_mm_align.miniature.sources.charts import SLOT
from nemo_mm_align.miniature.truth import Scene
from nemo_mm_align.miniature.world import SEEN, Seen
from nemo_mm_align.model.config import EngineConfig, ParallelConfig, VisionConfig
from nemo_mm_align.model.huggingface import llava_config_from_hf, load_huggingface
from nemo_mm_align.model.huggingface_export import export_huggingface
from nemo_mm_align.model.huggingface_origin import Origin
from nemo_mm_align.model.llava import Llava, build_llava, set_trainable
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.images import ImageProcessor, load_image
from nemo_mm_align.schema.records import read_records

logger = logging.getLogger(__name__)

CLASSES = (1 + len(COLOURS), 1 + len(VALUES), 1 + len(SHAPES))
"""Of each label; class 0: there is none."""

_WARMUP, _CLIP, _BETAS, _LOG_EVERY = 0.05, 1.0, (0.9, 0.95), 100


def patch_labels(scene: Scene, vision: VisionConfig) -> list[list[int]]:
    """Return what each patch is to tell, row by row: [T, D] class numbers of colour, value and shape."""
    across = vision.image_size // vision.patch_size
    return [_column(scene, column * vision.patch_size) for column in range(across)] * across


def _column(scene: Scene, pixel: int) -> list[int]:
    if scene.shape:
        return [1 + COLOURS.index(scene.colour), 0, 1 + SHAPES.index(scene.shape)]
    bar = dict(enumerate(scene.bars)).get(pixel // SLOT)
    return [1 + COLOURS.index(bar.colour), bar.value, 0] if bar else [0, 0, 0]


def learn_to_see(model: Llava, images_NCHW: Tensor, labels_NTD: Tensor, settings: SightSettings, seed: int) -> float:
    """Train the tower; return the share of right labels in the last batch before its update."""
    tower, generator = model.vision_tower, torch.Generator().manual_seed(seed)
    head = nn.Linear(model.model_config.vision.hidden_size, sum(CLASSES))
    with torch.no_grad():
        head.weight.normal_(std=head.in_features**-0.5, generator=generator)
        head.bias.zero_()
    weights = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, betas=_BETAS, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings.steps))
    for step in range(1, settings.steps + 1):
        batch_N = torch.randint(len(images_NCHW), (settings.batch_size,), generator=generator)
        logits_NTF = head(tower(images_NCHW[batch_N])[:, tower.class_token_len :])
        loss, right = _losses(logits_NTF, labels_NTD[batch_N])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, _CLIP)
        optimizer.step()
        schedule.step()
        if step % _LOG_EVERY == 0 or step == settings.steps:
            logger.info("sight: step %d of %d, loss %.3f, right %.3f", step, settings.steps, loss.item(), right)
    return right


def _rate(step: int, steps: int) -> float:
    """Multiple of the learning rate: a short warm-up, then a cosine to 0."""
    warmup = max(1, round(_WARMUP * steps))
    return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _losses(logits_NTF: Tensor, labels_NTD: Tensor) -> tuple[Tensor, float]:
    """Cross entropies of the labels, summed, and the share of right ones."""
    parts = logits_NTF.split(CLASSES, dim=-1)
    labels = labels_NTD.unbind(-1)
    losses = [cross_entropy(part.flatten(0, 1), label.flatten()) for part, label in zip(parts, labels, strict=True)]
    right = [(part.argmax(-1) == label).float().mean().item() for part, label in zip(parts, labels, strict=True)]
    return torch.stack(losses).sum(), sum(right) / len(right)


def make_seeing(blank: str | Path, world: str | Path, out: str | Path, settings: SightSettings, seed: int) -> None:
    """Read a model folder, train its tower on the world's base pictures, write it to the folder `out`.

    Raises:
        UserError: folder or world are incomplete, or `out` exists.
    """
    config, seen = llava_config_from_hf(blank), list(read_records(Path(world) / SEEN, Seen))
    runtime.initialize(ParallelConfig(), seed)
    model = build_llava(config, ParallelConfig(), EngineConfig(seed=seed), initialize=False)
    load_huggingface(model, blank)
    set_trainable(model, language=False, projector=False, vision=True, adapters=False)
    process = ImageProcessor.from_hf(blank)
    pixels = [process(load_image(Path(world) / one.image)) for one in seen]
    device = runtime.device()
    labels = torch.tensor([patch_labels(one.scene, config.vision) for one in seen], device=device)
    learn_to_see(model, torch.from_numpy(np.stack(pixels)).to(device), labels, settings, seed)
    export_huggingface(model, out, Origin.of_folder(blank))
    runtime.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source, pictures, target, values, start = sys.argv[1:6]
    make_seeing(source, pictures, target, read(SightSettings, json.loads(values), "sight"), int(start))
