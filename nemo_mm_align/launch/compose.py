"""What a stage's script will see: its configuration, composed here and now with the overrides of the job."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import UnsupportedInterpolationType

from nemo_mm_align.cli.command import describe_refusal, groups_of, top_level_keys
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.inference.settings import register_open_attributes


@dataclass(frozen=True)
class Composed:
    """A stage's configuration and, under `choices`, which file of each group it was made of."""

    config: DictConfig
    choices: dict[str, str]

    def get(self, key: str) -> Any:
        """Return the value of a dotted key, ``None`` where it is absent or mandatory and not given."""
        return OmegaConf.select(self.config, key, throw_on_missing=False, throw_on_resolution_failure=False)

    def plain(self, key: str) -> Any:
        """Return a section as plain values; values that are mandatory and not given are left out."""
        value = self.get(key)
        if not isinstance(value, DictConfig):
            return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        found: dict[str, Any] = {}
        for name in value:
            with suppress(UnsupportedInterpolationType):  # NeMo's own, which the stage will know
                if not OmegaConf.is_missing(value, name):
                    item = value[name]
                    found[str(name)] = OmegaConf.to_container(item, resolve=True) if OmegaConf.is_config(item) else item
        return found

    def missing(self) -> list[str]:
        """Return the mandatory keys without a value."""
        return missing_keys(OmegaConf.to_container(self.config))


def compose_stage(stage: str, overrides: Sequence[str]) -> Composed:
    """Compose ``conf/<stage>.yaml`` as its script would.

    Raises:
        UserError: an override names no key or no file of a group.
    """
    composed = _composed(stage, tuple(overrides))
    return Composed(deepcopy(composed.config), dict(composed.choices))


@lru_cache(maxsize=128)
def _composed(stage: str, overrides: tuple[str, ...]) -> Composed:
    """What `compose_stage` returns: a training's configuration is wanted again by each stage around it."""
    register_open_attributes()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            config = compose(stage, list(overrides), return_hydra_config=True)
    except (HydraException, ValueError) as error:
        reason = describe_refusal(error, list(overrides), groups_of(CONF, stage), top_level_keys(CONF, stage))
        raise UserError(f"stage {stage}: {reason} Correct the settings under {stage} (conf/launch.yaml).") from None
    choices = {key: str(value) for key, value in config.hydra.runtime.choices.items() if not key.startswith("hydra/")}
    with open_dict(config):
        del config["hydra"]
    return Composed(config, choices)


@cache
def whole_values(stage: str) -> Collection[str]:
    """Keys of ``conf/<stage>.yaml`` without a value (``???``, null): a mapping given for one is not a group of settings."""
    config = OmegaConf.load(CONF / f"{stage}.yaml")
    assert isinstance(config, DictConfig)
    return frozenset(_keys_of(OmegaConf.to_container(config), ("???", None)))


def missing_keys(values: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys of plain values that are mandatory and not given."""
    return _keys_of(values, ("???",))


def _keys_of(values: Any, wanted: Collection[str | None], prefix: str = "") -> list[str]:
    """Return the dotted keys that have one of some values."""
    if not isinstance(values, dict):
        return [prefix.rstrip(".")] if (values is None or isinstance(values, str)) and values in wanted else []
    return [name for key, value in values.items() for name in _keys_of(value, wanted, f"{prefix}{key}.")]
