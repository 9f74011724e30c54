from collections.abc import Iterator

import pytest

from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    """This process alone, as torchrun would start it."""
    runtime.initialize(ParallelConfig(), seed=1)
    yield
    runtime.shutdown()
