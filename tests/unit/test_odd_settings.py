"""No value of any setting of any command ends in a traceback: it is taken, or refused in a sentence."""

from __future__ import annotations

import logging
import pickle
import random
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import with_own_groups
from nemo_mm_align.cli.entry_point import describe
from nemo_mm_align.core.repository import CONF, ROOT
from nemo_mm_align.inference.settings import register_open_attributes
from nemo_mm_align.launch.settings import register_open_nodes
from tests.odd_values import ODD, calls, keys_of, put, write_inputs
from tests.unit.odd_checks import CHECKS

LONGEST = 2500
"""Characters of a message: lists of known names are among them."""

WHOLE_COMMANDS, SEED = 16, 20261127
TYPED = ["null", "[a,1]", "{a: 1}", ".nan", ".inf", "-3", "1e300", "fast", "'\"false\"'", "''", "/proc/no/x"]
NAMES = list(calls(Path("/")))
PARTS = {"launch": 4, "benchmark": 8, "estimate": 4, "miniature": 4}
"""At each key only so large a part of the odd values: what composes many settings for each, computes, or has hundreds of keys."""
SLOW = ("launch", "estimate", "train", "convert", "miniature", "sample", "generate", "benchmark", "attribute_report")
"""What composes many settings for each value, opens a model's folder, has hundreds of keys, or draws a page."""


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without log lines or the estimates of hundreds of jobs, and in a folder of its own: a text is a path to some settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nemo_mm_align.capacity.run.document_text", lambda: "")
    monkeypatch.setattr("nemo_mm_align.capacity.run.experiment_texts", dict)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("odd")
    write_inputs(made)
    return made


def composed(name: str, folder: Path) -> DictConfig:
    register_open_nodes()
    register_open_attributes()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        script = name.split()[0]
        return compose(script, with_own_groups(calls(folder)[name], CONF, script))


def refusal(name: str, config: DictConfig) -> str:
    """What is said of a configuration; "" where it is accepted."""
    try:
        CHECKS[name.split()[0]](config)
    except Exception as error:
        return str(describe(error))
    return ""


def fault(name: str, config: DictConfig) -> str | None:
    """What is wrong with how a command takes its settings; None where it goes on or says what a user can mend."""
    try:
        CHECKS[name.split()[0]](config)
    except Exception as error:
        text = describe(error)
        if text is None:
            return "".join(traceback.format_exception(error)[-3:])
        return text if not text.strip() or len(text) > LONGEST or "Traceback" in text else None
    return None


def values_for(name: str, number: int) -> list[tuple[str, Any]]:
    """The odd values that a call tries at its key of this number: other ones at the next key, and where calls of one command
    share its keys, other ones in the next call.
    """
    script = name.split()[0]
    siblings = [other for other in NAMES if other.split()[0] == script]
    parts = PARTS.get(script, 1) * (2 if len(siblings) > 1 else 1)
    return list(ODD.items())[(number + siblings.index(name)) % parts :: parts]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith(SLOW) else name for name in NAMES]
)
def test_every_odd_value_of_every_key(name: str, folder: Path) -> None:
    whole = composed(name, folder)
    packed, found = pickle.dumps(whole), {}  # unpacked in a seventh of the time that a deep copy takes
    for number, key in enumerate(keys_of(whole)):
        for kind, value in values_for(name, number):
            config = pickle.loads(packed)
            put(config, key, value)
            wrong = fault(name, config)
            if wrong is not None:
                found[f"{key} {kind}"] = wrong
    assert not found, "\n".join(f"{where}: {text}" for where, text in list(found.items())[:5])


def test_a_quoted_boolean_is_no_switch_anywhere(folder: Path) -> None:
    """A text is never true: each switch of each command refuses it, and says which."""
    switches = 0
    for name in NAMES:
        whole = composed(name, folder)
        packed = pickle.dumps(whole)
        for key in keys_of(whole):
            if not isinstance(OmegaConf.select(whole, key, throw_on_resolution_failure=False), bool):
                continue
            if key.startswith("exp_manager.") or "exp_manager." in key:
                continue  # NeMo's own to judge
            config = pickle.loads(packed)
            put(config, key, "false")
            said, switches = refusal(name, config), switches + 1
            assert key.rpartition(".")[2] in said and "true or false" in said, (name, key, said)
    assert switches > 60


def words_of(generator: random.Random, folder: Path) -> tuple[str, list[str]]:
    """One command with one odd value, as it is typed."""
    name = generator.choice([name for name in NAMES if name.split()[0] not in ("benchmark", "miniature", "doctor")])
    key = generator.choice(sorted(keys_of(composed(name, folder))))
    value = generator.choice(TYPED)
    return name.split()[0], [*calls(folder)[name], f"{key}={value}"]


@pytest.mark.slow
def test_whole_commands_end_with_a_sentence(folder: Path) -> None:
    generator = random.Random(SEED)
    drawn = [words_of(generator, folder) for _ in range(WHOLE_COMMANDS)]
    ends = []
    for script, words in drawn:
        refused = subprocess.run(
            [sys.executable, str(ROOT / f"scripts/{script}.py"), *words], cwd=folder, capture_output=True, text=True
        )
        ends.append(refused.returncode)
        assert "Traceback" not in refused.stderr, (script, words, refused.stderr[-2000:])
        assert refused.returncode in (0, 2), (script, words, refused.stderr[-2000:])
        if refused.returncode == 2:
            assert refused.stderr.count("error: ") == 1, (script, words, refused.stderr[-2000:])
    assert ends.count(2) > WHOLE_COMMANDS // 2
