"""Answers read in batches, in every layout, against transformers reading them one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from nemo_mm_align.inference.rating import Rater
from nemo_mm_align.model.llava import build_llava
from nemo_mm_align.parallel.source import open_source
from nemo_mm_align.schema.images import load_image
from tests.distributed import run_distributed
from tests.parallel.rating_worker import HEAD, LAYOUTS, samples
from tests.tiny import tiny_llava

pytestmark = pytest.mark.parallel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rating")
    tiny_llava(folder / "model")
    for place, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (30, 40), colour).save(folder / f"{place}.png")
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, list[torch.Tensor]]:
    """Hidden states of the last token, and the head's outputs of the mean over all tokens, by transformers."""
    from transformers import LlavaForConditionalGeneration

    source = open_source(folder / "model")
    encoder, processor = source.encoder(source.template(None), None), source.image_processor()
    theirs = LlavaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1234)
    weight_TH = torch.randn(3, 48, generator=generator) / 48**0.5
    found: dict[str, list[torch.Tensor]] = {"outputs": [], "hidden": []}
    for sample in samples(folder, encoder):
        pixels = [torch.from_numpy(processor(load_image(path))) for path in sample.image_paths]
        rows = []
        for sequence in sample.sequences:
            ids = torch.tensor([sequence.ids])
            with torch.no_grad():
                output = theirs.model(input_ids=ids, pixel_values=torch.stack(pixels) if pixels else None)
            rows.append(output.last_hidden_state[0])
        found["hidden"].append(torch.stack([row[-1] for row in rows]))
        found["outputs"].append(torch.stack([row.mean(0) @ weight_TH.T for row in rows]))
    return found


@pytest.fixture(scope="module")
def read(folder: Path) -> dict[str, dict[str, list]]:
    """What two processes read in each layout."""
    run_distributed("tests.parallel.rating_worker", 2, folder, folder / "out.json")
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_answers_are_read_as_transformers_does_in_every_layout(layout: str, read, expected) -> None:
    found = read[layout]
    for name, values in expected.items():
        assert len(found[name]) == len(values)
        for mine, theirs in zip(found[name], values, strict=True):
            torch.testing.assert_close(torch.tensor(mine), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("process_group")
def test_outputs_need_a_head(folder: Path) -> None:
    source = open_source(folder / "model")
    encoder = source.encoder(source.template(None), None)
    with pytest.raises(ValueError, match="the model has no head"):
        Rater(build_llava(source.config), encoder, source.image_processor(), HEAD.pooling)
