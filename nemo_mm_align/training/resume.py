"""Whether a run can go on from a checkpoint: what it was trained with must be what it would be trained with now."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.nested import differing
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.parallel.checkpoint_folder import CheckpointMetadata, latest_checkpoint, read_metadata
from nemo_mm_align.schema.images import ImageProcessor

logger = logging.getLogger(__name__)

SHOWN_PICTURES = 5

DECISIVE = ("name", "data", "pictures", "global_batch_size", "seed", "shuffle", "optimizer")
"""What decides which samples a step sees (with others, samples would be skipped and repeated), and who can read its state."""


def checkpoint_to_resume(folder: Path, resume: bool) -> Path | None:
    """Return the newest complete checkpoint of a run's checkpoints folder, None where there is none.

    Raises:
        UserError: there are checkpoints, but the run is to begin anew among them; or all of them are damaged.
    """
    found = latest_checkpoint(folder)
    if found is not None and not resume:
        raise UserError(
            f"{folder}: holds checkpoints up to {found.name}, among which a new run's would be lost (checkpoint.resume=false). "
            "Choose another exp_manager.name, or remove that folder."
        )
    return found


def check_resumable(
    folder: Path,
    recipe: Mapping[str, Any],
    base_fingerprint: str,
    changed_pictures: Sequence[str] = (),
    head: Mapping[str, Any] | None = None,
) -> int:
    """Return the step of the checkpoint in `folder`; warn of settings that have changed since.

    Args:
        recipe: what the run would be trained with now, as it stands in the metadata of its checkpoints.
        base_fingerprint: of the model that it starts from.
        head: what stands on top of its hidden states, as in that metadata.

    Raises:
        UserError: the checkpoint was trained from another model, on other data, or in other batches.
    """
    metadata = read_metadata(folder)
    if metadata.base_fingerprint != base_fingerprint:
        raise UserError(f"{folder}: was trained from another model ({metadata.base_path}). Give that model, {_ANEW}.")
    changes = _changes(metadata, recipe, changed_pictures)
    decisive = [text for key, text in changes.items() if key in DECISIVE]
    if decisive:
        raise UserError(f"{folder}: was trained with {', '.join(decisive)}. Take that back, {_ANEW}.")
    if metadata.head != head:
        raise UserError(f"{folder}: was trained with the head {metadata.head} (now {head}). Take that back, {_ANEW}.")
    if recipe.get("pictures") and "pictures" not in metadata.recipe:
        logger.warning("%s: an earlier version did not note its pictures: they are taken to be as now", folder)
    if changes:
        logger.warning("%s was trained with %s: going on with the new values", folder, ", ".join(changes.values()))
    return metadata.step


def check_same_model(folder: Path, config: LlavaConfig, processor: ImageProcessor) -> None:
    """Raise `UserError` where a model folder says other sizes or another image processing than a checkpoint was trained with.

    Both are compared as they are read, so that a setting that a checkpoint of an earlier version does not name has its default.
    """
    metadata = read_metadata(folder)
    before = {
        **LlavaConfig.from_dict(metadata.model).to_dict(),
        "image_processor": ImageProcessor.model_validate(metadata.image_processor).model_dump(mode="json"),
    }
    now = {**config.to_dict(), "image_processor": processor.model_dump(mode="json")}
    changes = [f"{name}={old} (now {new})" for name, old, new in differing(_plain(before), _plain(now))]
    if changes:
        raise UserError(f"{folder}: was trained with {', '.join(changes)}. Take that back, {_ANEW}.")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON holds them."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


_ANEW = "or choose another exp_manager.name, or remove the run's checkpoints to begin anew"


def _changes(
    metadata: CheckpointMetadata, recipe: Mapping[str, Any], changed_pictures: Sequence[str]
) -> dict[str, str]:
    """Settings that a checkpoint tells and that are others now, in words."""
    words = {
        "data": "other training data than data.train holds now",
        "pictures": f"other pictures than its data name now{_listed(changed_pictures)}",
    }
    return {
        key: words.get(key, f"{key}={metadata.recipe[key]} (now {value})")
        for key, value in recipe.items()
        if key in metadata.recipe and metadata.recipe[key] != value
    }


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_PICTURES} more" if len(names) > SHOWN_PICTURES else ""
    return f" ({', '.join(sorted(names)[:SHOWN_PICTURES])}{more})" if names else ""
