"""What every shipped configuration says: each entry point, each choice of each of its groups, each experiment; composed,
resolved, flat.

    PYTHONPATH=CHECKOUT python tests/golden/settings_dump.py CHECKOUT/conf
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from nemo_mm_align.cli.command import with_own_groups
from nemo_mm_align.launch.settings import register_open_nodes

GROUPS = {
    "agreement": ["attribute_schema"],
    "benchmark": ["size", "template"],
    "build": ["method", "attribute_schema"],
    "convert": ["model", "template", "attribute_schema"],
    "doctor": ["judge"],
    "estimate": ["recipe", "model", "template", "attribute_schema"],
    "evaluate": ["attribute_schema"],
    "generate": ["template", "attribute_schema"],
    "label": ["judge", "attribute_schema"],
    "launch": ["cluster"],
    "miniature": ["model", "template", "attribute_schema"],
    "sample": ["template", "attribute_schema"],
    "train": ["recipe", "model", "template", "attribute_schema", "experiment"],
}
"""Entry point -> groups whose choices are composed with it, one at a time."""

NEEDED = {"train": {"recipe": "sft", "model": "mini"}, "estimate": {"recipe": "sft", "model": "mini"}}
"""What an entry point does not compose without."""

Settings = dict[str, Any]


def choices(conf: Path, entry: str, group: str) -> list[str]:
    """Names that a group takes: one that an entry point has for itself, or one that all have."""
    own = conf / entry / group
    return sorted(path.stem for path in (own if own.is_dir() else conf / group).glob("*.yaml"))


def dump(conf: Path) -> dict[str, Settings]:
    """Return the settings of every composition: ``train``, ``train recipe=dpo``, ``train experiment=...``; key -> value."""
    _register()
    GlobalHydra.instance().clear()
    found = {}
    with initialize_config_dir(str(conf), version_base=None):
        for entry, groups in GROUPS.items():
            needed = NEEDED.get(entry, {})
            found[entry] = _compose(conf, entry, needed)
            for group in groups:
                for choice in choices(conf, entry, group):
                    found[f"{entry} {group}={choice}"] = _compose(conf, entry, _with(needed, group, choice))
    return found


def _with(needed: dict[str, str], group: str, choice: str) -> dict[str, str]:
    return {group: choice} if group == "experiment" else {**needed, group: choice}


def _compose(conf: Path, entry: str, words: dict[str, str]) -> Settings:
    typed = with_own_groups([f"{name}={value}" for name, value in words.items()], conf, entry)
    return dict(_leaves(compose(entry, typed), ""))


def _leaves(config: DictConfig, prefix: str) -> Iterator[tuple[str, Any]]:
    """Flat keys and values; a reference to a value that is missing stays as it stands."""
    for key in config:
        path = f"{prefix}{key}"
        if OmegaConf.is_missing(config, key):
            yield path, "???"
            continue
        try:
            value = config[key]
        except InterpolationToMissingValueError:
            yield path, OmegaConf.to_container(config, resolve=False)[key]  # type: ignore[call-overload]
            continue
        if OmegaConf.is_dict(value) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _register() -> None:
    """What the scripts register: nodes that take any key."""
    register_open_nodes()
    attributes = OmegaConf.create({"attributes": OmegaConf.create({}, flags={"struct": False})})
    ConfigStore.instance().store(name="open_attributes", node=attributes)


if __name__ == "__main__":
    print(json.dumps(dump(Path(sys.argv[1])), indent=0, sort_keys=True))
