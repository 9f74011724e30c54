"""Damaged checkpoints: each kind of damage is found and named, the newest complete one counts, and nothing is removed."""

import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.parallel.checkpoint_folder import checkpoints_of, damage_of, latest_checkpoint, shard_sizes
from nemo_mm_align.training.resume import checkpoint_to_resume
from tests.checkpoint_files import SHARDS, metadata_of, write_checkpoint


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, size)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)  # type: ignore[return-value]


DAMAGES = [
    (cut("state/__1_0.distcp", 499), "state/__1_0.distcp is cut short: 499 of 500 bytes"),
    (cut("state/__0_0.distcp", 0), "state/__0_0.distcp is cut short: 0 of 300 bytes"),
    (remove("state/__0_0.distcp"), "state/__0_0.distcp is missing"),
    (remove("state/.metadata"), "state/.metadata is missing"),
    (cut("state/.metadata", 0), "state/.metadata is empty"),
    (cut("state/.metadata", 100), "state/.metadata cannot be read: "),
    (write("state/.metadata", pickle.dumps([1])), "state/.metadata cannot be read: "),
    (remove("state/common.pt"), "state/common.pt is missing"),
    (cut("state/common.pt", 400), "state/common.pt is cut short or changed"),
    (cut("state/metadata.json", 3), "Expecting|Unterminated"),
    (remove("metadata.json"), "metadata.json is missing"),
    (lambda folder: shutil.rmtree(folder / "state"), "state/metadata.json is missing"),
    (cut("metadata.json", 0), "metadata.json is empty"),
    (cut("metadata.json", 20), "metadata.json: cannot be read"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with complete checkpoints of three steps."""
    for step in (1, 2, 3):
        write_checkpoint(tmp_path / "checkpoints", metadata_of(step))
    return tmp_path


def files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_size_of_every_shard_is_known(run: Path) -> None:
    assert shard_sizes(run / "checkpoints/step_00000003/state/.metadata") == SHARDS
    assert [path.name for path in checkpoints_of(run / "checkpoints")] == [f"step_0000000{step}" for step in (1, 2, 3)]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_a_damaged_newest_one_is_passed_over_with_its_name(
    run: Path, damage: Callable[[Path], None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    newest, older = (run / f"checkpoints/step_0000000{step}" for step in (3, 2))
    damage(newest)
    before = files(run)
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(run) == latest_checkpoint(run / "checkpoints") == older
        assert checkpoint_to_resume(run / "checkpoints", resume=True) == older
    assert f"{newest} is damaged (" in caplog.text and f"and passed over: {older} is the newest complete" in caplog.text
    with pytest.raises(UserError, match=rf"step_00000003: this checkpoint is damaged \(.*({words})") as caught:
        latest_checkpoint(newest)
    assert f"or go on from {older}, the newest complete one beside it." in str(caught.value)
    assert files(run) == before


def test_where_all_are_damaged_the_newest_is_named_and_no_run_begins_anew(run: Path) -> None:
    for folder in checkpoints_of(run / "checkpoints"):
        (folder / "state/common.pt").unlink()
    expected = (
        rf"{run}/checkpoints/step_00000003: this checkpoint is damaged \(state/common.pt is missing\)\. No complete one lies "
        r"beside it: restore it from a copy, or move it away to begin anew\."
    )
    with pytest.raises(UserError, match=expected):
        latest_checkpoint(run)
    with pytest.raises(UserError, match=expected):
        checkpoint_to_resume(run / "checkpoints", resume=True)


def test_looking_at_a_checkpoint_runs_nothing_of_what_is_pickled_in_it(run: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {run}/sprung",)

    path = run / "checkpoints/step_00000003/state/.metadata"
    path.write_bytes(pickle.dumps(Trap()))
    assert damage_of(path.parents[1]) is not None and not (run / "sprung").exists()


def test_it_needs_no_torch(run: Path) -> None:
    code = f"""
import sys
from nemo_mm_align.parallel.checkpoint_folder import latest_checkpoint
print(latest_checkpoint({str(run)!r}).name, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "step_00000003 False\n"
