"""Checkpoints of a tiny model with a head, as a training of attributes writes them, without the training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml

from nemo_mm_align.model.config import EngineConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.model.head_config import HeadConfig, Pooling
from nemo_mm_align.parallel import checkpoint
from nemo_mm_align.parallel.source import build_from, open_source
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.distributed import REPOSITORY

LORA = LoRAConfig(rank=4, alpha=8, dropout=0.0)


def helpsteer() -> AttributeSchema:
    return AttributeSchema.model_validate(_yaml("attribute_schema/helpsteer.yaml"))


def attribute_checkpoint(
    run: Path,
    base: Path,
    pooling: Pooling | None,
    lora: LoRAConfig | None = None,
    precision: str = "fp32",
    template: str = "vicuna_v1",
    attributed: bool = False,
) -> Path:
    """Write a checkpoint below `run`; process groups must be up. Outputs spread over the range and beyond.

    Args:
        pooling: of the head; None: the model has none, and answers.
        attributed: it says that it was trained to be asked for attributes.
    """
    source, schema = open_source(base), helpsteer()
    head = None if pooling is None else HeadConfig(schema.names, pooling)
    model = build_from(source, ParallelConfig(), EngineConfig(precision), lora, head=head)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adapters" in name or name.startswith("projector"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        if model.head is not None:
            model.head.score.weight.copy_(0.5 * torch.randn(model.head.score.weight.shape, generator=generator))
    metadata = checkpoint.CheckpointMetadata(
        step=3,
        model=source.config.to_dict(),
        lora=None if lora is None else json.loads(json.dumps(vars(lora))),
        head=head and head.to_dict(),
        template=_yaml(f"template/{template}.yaml"),
        attribute_schema=schema.model_dump(mode="json"),
        image_processor=source.image_processor().model_dump(mode="json"),
        recipe={"name": "attribute_model" if head else "steerlm" if attributed else "sft", "attributed": attributed},
        base_path=str(base),
        base_fingerprint=source.fingerprint(),
        precision=precision,
    )
    return Path(checkpoint.save(run, model, metadata, tokenizer_source=base))


def _yaml(name: str) -> dict:
    values: dict = yaml.safe_load((REPOSITORY / "conf" / name).read_text())
    return values
