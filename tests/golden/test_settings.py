"""Every shipped configuration says what it said at 1a72c78, apart from what `differences.yaml` lists."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.golden.differences import ABSENT, listed
from tests.golden.runs import GOLDEN
from tests.golden.settings_dump import Settings, dump

pytestmark = pytest.mark.slow

Change = tuple[str, str, str, str]
"""Entry point, key, value before, value after, the values as JSON."""


@pytest.fixture(scope="module")
def before() -> dict[str, Settings]:
    return json.loads(gzip.decompress((GOLDEN / "settings.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def now(repository: Path) -> dict[str, Settings]:
    return json.loads(json.dumps(dump(repository / "conf")))


def changes(before: dict[str, Settings], now: dict[str, Settings]) -> dict[Change, list[str]]:
    """Return each change with the compositions that have it; a composition that is gone counts with all of its keys."""
    found: dict[Change, list[str]] = {}
    for composition, old in before.items():
        new = now.get(composition, {})
        for key in {**old, **new}:
            values = old.get(key, ABSENT), new.get(key, ABSENT)
            if values[0] != values[1]:
                change = (composition.split()[0], key, json.dumps(values[0]), json.dumps(values[1]))
                found.setdefault(change, []).append(composition)
    return found


def allowed() -> set[Change]:
    return {
        (entry, row["key"], json.dumps(row["before"]), json.dumps(row["after"]))
        for row in listed("settings")
        for entry in row["entries"]
    }


def test_settings_have_changed_only_as_listed(before: dict[str, Settings], now: dict[str, Settings]) -> None:
    found, known = changes(before, now), allowed()
    unlisted = [
        f"{', '.join(where[:3])}: {change[1]}: {change[2]} -> {change[3]}"
        for change, where in found.items()
        if change not in known
    ]
    assert not unlisted, "\n".join(["not in differences.yaml:", *unlisted])
    over = [f"{entry}: {key}: {old} -> {new}" for entry, key, old, new in sorted(known - set(found))]
    assert not over, "\n".join(["in differences.yaml, and no longer so:", *over])


def test_every_name_of_an_experiment_and_a_choice_is_there(
    before: dict[str, Settings], now: dict[str, Settings]
) -> None:
    experiments = [name for name in before if name.startswith("train experiment=")]
    assert len(experiments) == 56 and len(before) == 152
    assert not set(before) - set(now)


def test_a_change_is_noticed_with_its_key(before: dict[str, Settings]) -> None:
    """The comparison itself: another value, a key that goes, a key that comes, a composition that goes."""
    old = {"train": before["train"], "train recipe=dpo": before["train recipe=dpo"]}
    new = {"train": {**old["train"], "model.max_length": 4096, "model.more": None}}
    del new["train"]["seed"]
    found = changes(old, new)
    assert found[("train", "model.max_length", "2048", "4096")] == ["train"]
    assert ("train", "model.more", '"absent"', "null") in found
    assert found[("train", "seed", "1234", '"absent"')] == ["train", "train recipe=dpo"]
    assert ("train", "recipe.beta", "0.1", '"absent"') in found
