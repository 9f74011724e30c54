"""A checkpoint that is asked for attributes: what the server answers to a sweep is what the model answers offline."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nemo_mm_align.inference.generator import Generator
from nemo_mm_align.inference.loading import open_for_inference
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.miniature.folders import SHIPPED_BASE
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.records import Prompt, Turn
from tests.attribute_checkpoints import LORA, attribute_checkpoint
from tests.serving_process import ServingProcess, serving

pytestmark = pytest.mark.e2e

LEVELS = {"verbosity": [0, 2, 4], "complexity": [1, 3]}
QUESTION = "Which shape is in the image?"
TOKENS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the miniature's trained base behind adapters that answer differently wherever they are asked differently."""
    place = tmp_path_factory.mktemp("steered")
    runtime.initialize(ParallelConfig(), seed=1)
    attribute_checkpoint(place / "run", SHIPPED_BASE, None, LORA, attributed=True)
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(place / "picture.png")
    return place


@pytest.fixture(scope="module")
def generator(folder: Path) -> Generator:
    return open_for_inference(folder / "run", ParallelConfig(), "fp32").generator(max_batch_tokens=4096)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServingProcess]:
    with serving(folder, f"checkpoint={folder}/run", "precision=fp32", "name=steered", "slots=8") as found:
        yield found


def ask(server: ServingProcess, folder: Path, **extra: Any) -> list[Any]:
    data = base64.b64encode((folder / "picture.png").read_bytes()).decode()
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    messages: list[Any] = [{"role": "user", "content": [shown, {"type": "text", "text": QUESTION}]}]
    found = server.client().chat.completions.create(
        model="steered", messages=messages, temperature=0, max_tokens=TOKENS, extra_body=extra
    )
    return list(found.choices)


def offline(generator: Generator, folder: Path, *assignments: Any) -> list[str]:
    turn = Turn(role="user", content=f"<image>\n{QUESTION}")
    prompt = Prompt(id="one", images=(str(folder / "picture.png"),), turns=(turn,))
    settings = SamplingSettings(temperature=0, max_new_tokens=TOKENS)
    return [
        found.candidates[0].text for found in generator.generate([prompt], settings, list(assignments), progress=False)
    ]


def test_a_sweep_says_what_the_same_assignments_say_offline(
    server: ServingProcess, generator: Generator, folder: Path
) -> None:
    choices = ask(server, folder, sweep=LEVELS)
    grid = [{"verbosity": first, "complexity": second} for first in (0, 2, 4) for second in (1, 3)]
    found = {
        (choice.attributes["verbosity"], choice.attributes["complexity"]): choice.message.content for choice in choices
    }
    texts = offline(generator, folder, *grid)
    assert found == {tuple(asked.values()): text for asked, text in zip(grid, texts, strict=True)}
    assert len(choices) == 6 and len(set(texts)) > 2  # what is asked for moves the answer


def test_unasked_it_is_asked_for_its_defaults_and_null_asks_for_nothing(
    server: ServingProcess, generator: Generator, folder: Path
) -> None:
    defaults, nothing = offline(generator, folder, {}, None)
    assert ask(server, folder)[0].message.content == defaults != nothing
    assert ask(server, folder, attributes=None)[0].message.content == nothing
