"""Settings of a stage, read as its script will read them: a value of the wrong type is said here, not in the queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import UnsupportedInterpolationType

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_stage import BuildFile
from nemo_mm_align.evaluation.settings import settings_of as evaluation_settings
from nemo_mm_align.inference.annotate_settings import AnnotateSettings
from nemo_mm_align.inference.settings import settings_from_config
from nemo_mm_align.labeling.stage import LabelSettings
from nemo_mm_align.training.settings import read_settings


def check_types(stage: str, config: DictConfig) -> None:
    """Check a stage's composed configuration, in which nothing is missing; raise `UserError` naming stage and key.

    What is written in terms of NeMo's own resolvers (``${multiply:...}``) is checked by the stage.
    """
    try:
        if stage == "train":
            read_settings(config)
        elif stage in _READERS:
            _READERS[stage](OmegaConf.to_container(config, resolve=True))
    except UnsupportedInterpolationType:
        return
    except UserError as error:
        raise UserError(f"stage {stage}: {error}") from None


_READERS: dict[str, Callable[[Any], Any]] = {
    "sample": lambda values: settings_from_config(values).sampling,
    "generate": lambda values: settings_from_config(values).sampling,
    "label": lambda values: read(LabelSettings, {key: value for key, value in values.items() if key != "judge"}),
    "annotate": lambda values: read(AnnotateSettings, values),
    "build": lambda values: read(BuildFile, values),
    "evaluate": evaluation_settings,
}
