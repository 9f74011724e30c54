"""What a run notes of itself: in its checkpoints, in its folder's facts, in its log."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.core.packages import installed_versions
from nemo_mm_align.core.run_files import write_facts
from nemo_mm_align.datasets.sample import SampleStore
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import checkpoint, kernels, runtime
from nemo_mm_align.parallel.optimizer import state_form
from nemo_mm_align.parallel.source import ModelSource
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.training.settings import TrainSettings

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "megatron-core", "nemo_toolkit", "transformer-engine", "nemo_mm_align")


@dataclass(frozen=True)
class RunRecord:
    """What a run is trained from and with.

    Args:
        pictures: hash of what the samples' image files hold.
    """

    settings: TrainSettings
    source: ModelSource
    processor: ImageProcessor
    samples: SampleStore
    pictures: str
    total_steps: int

    def recipe(self) -> dict[str, Any]:
        """What the weights depend on beside the model they started from, in the form of a checkpoint's metadata."""
        settings = self.settings
        recipe = {
            **asdict(settings.recipe),
            "attributed": settings.spec.samples.attributed or self.source.asking is not None,
            "steps": self.total_steps,
            "global_batch_size": settings.model.global_batch_size,
            "seed": settings.seed,
            "shuffle": settings.data.shuffle,
            "data": self.samples.fingerprint(),
            "pictures": self.pictures,
            "optim": asdict(settings.model.optim),
            "optimizer": state_form(settings.engine.precision),
        }
        plain: dict[str, Any] = json.loads(json.dumps(recipe))
        return plain

    @property
    def head(self) -> dict[str, Any] | None:
        """What stands on top of the hidden states, in the form of a checkpoint's metadata."""
        head = self.settings.recipe.head(self.settings.schema)
        return None if head is None else head.to_dict()

    def metadata(self, step: int) -> checkpoint.CheckpointMetadata:
        """Of the checkpoint after `step` steps."""
        settings = self.settings
        return checkpoint.CheckpointMetadata(
            step=step,
            model=self.source.config.to_dict(),
            lora=asdict(settings.model.lora) if settings.model.lora else None,
            head=self.head,
            template=settings.template.model_dump(mode="json"),
            attribute_schema=settings.schema.model_dump(mode="json"),
            image_processor=self.processor.model_dump(mode="json"),
            recipe=self.recipe(),
            base_path=str(self.source.folder.resolve()),
            base_fingerprint=self.source.fingerprint(),
            precision=settings.engine.precision,
            layout=runtime.layout(),
            versions=installed_versions(_PACKAGES),
        )

    def facts(self, computed_with: dict[str, str]) -> dict[str, Any]:
        """What a report shows of the run.

        Args:
            computed_with: part of the model -> whose kernels.
        """
        settings, batch = self.settings, self.settings.model.global_batch_size
        return {
            "method": settings.recipe.name,
            "data_files": [Path(settings.data.train).name],
            "samples": len(self.samples),
            "total_steps": self.total_steps,
            "global_batch_size": batch,
            "epochs": self.total_steps * batch / len(self.samples),
            "optim": asdict(settings.model.optim),
            "lora": asdict(settings.model.lora) if settings.model.lora else None,
            "recipe": asdict(settings.recipe),
            "precision": settings.engine.precision,
            "kernels": computed_with,
            "seed": settings.seed,
            "layout": {**runtime.layout(), "sequence_parallel": settings.parallel.sequence_parallel},
        }


def idle_levers(settings: TrainSettings) -> frozenset[str]:
    """Return the levers that have nothing to act on: no adapters, no dropout, no losses of tokens, no rows of trees."""
    lora, recipe = settings.model.lora, settings.recipe
    acts = {
        "lora": lora is not None,
        "dropout": lora is not None and lora.dropout > 0,
        "losses": recipe.reads.token_losses,
        "attention": recipe.rows_shared or settings.model.micro_batch_tokens is not None,
    }
    return frozenset(name for name, used in acts.items() if not used)


def announce(record: RunRecord, model: Llava, folder: Path, start: int) -> None:
    """Write the facts and log what will be trained; all ranks call it.

    Args:
        folder: of the run.
        start: step that it goes on from.
    """
    computed_with = kernels.active(model.transformer_impl)
    idle = idle_levers(record.settings)
    for name in sorted(idle):
        if getattr(record.settings.engine.levers, name):
            logger.warning("model.levers.%s=true: there is nothing in this run that it would change.", name)
    levers = ", ".join(sorted(model.config.levers - idle))
    parts = computed_with | ({"levers": levers} if levers else {})
    logger.info("computes with %s", "; ".join(f"{part}: {origin}" for part, origin in parts.items()))
    if runtime.rank() == 0:
        write_facts(folder, record.facts(computed_with))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info(
        "%s: %d samples, %d steps of %d, from step %d; %s trainable parameters on this rank; layout %s; results in %s",
        record.settings.recipe.name,
        len(record.samples),
        record.total_steps,
        record.settings.model.global_batch_size,
        start,
        f"{trained:,}",
        runtime.layout(),
        folder,
    )
