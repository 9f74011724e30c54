"""The cluster, and what its jobs train on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.slurm.cluster import Cluster, missing_programs
from tests.tiny import tiny_llava, training_data


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    absent = missing_programs()
    if absent:
        missing(f"not installed: {', '.join(absent)}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: sockets have paths of at most 107 characters
    started = Cluster(folder)
    try:
        started.start()
        yield started
    finally:
        started.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_data(tmp_path_factory.mktemp("data"), "sft", count=64)
