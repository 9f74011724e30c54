"""A head on top of hidden states, in one process: against transformers, its number format, its freshness."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.config import EngineConfig
from nemo_mm_align.model.head_config import HeadConfig
from nemo_mm_align.model.huggingface import llava_config_from_hf, load_huggingface
from nemo_mm_align.model.llava import Llava, build_llava, set_trainable
from nemo_mm_align.objectives.objective import Reading, Reads
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.training.data import Collator
from nemo_mm_align.training.head_start import start_head
from nemo_mm_align.training.reading import forward_batch, read_batch
from nemo_mm_align.training.step import TrainingEngine
from tests.own_recipe.attribute_regression import AttributeRegression
from tests.tiny_llava import (
    IMAGE_SIZE,
    IMAGE_TOKEN,
    PAD,
    TOKENS_PER_IMAGE,
    load_pixels,
    make_llava,
    micro_batch,
    samples,
)

pytestmark = pytest.mark.usefixtures("process_group")

HEAD = HeadConfig(("depth", "length", "tone"), "last")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("model") / "llava")


def build(folder: Path, precision: str = "fp32", head: HeadConfig | None = HEAD) -> Llava:
    model = build_llava(llava_config_from_hf(folder), engine=EngineConfig(precision), initialize=False, head=head)
    load_huggingface(model, folder)
    return model


def test_hidden_states_are_those_of_transformers_behind_the_final_norm(folder: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    model, batch = build(folder).eval(), micro_batch(0)
    theirs = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        hidden_SBH = forward_batch(model, batch)
        inside = batch.segment_ids_BS >= 0
        mask = {"attention_mask": inside.long(), "use_cache": False}
        expected = theirs.model(input_ids=batch.input_ids_BS, pixel_values=batch.images_NCHW, **mask).last_hidden_state
        reading = read_batch(model, hidden_SBH, batch, Reads(hidden="last"))
    found = hidden_SBH.transpose(0, 1)[inside]
    assert (found - expected[inside]).abs().max() <= 1e-5 * expected[inside].abs().max()
    rows = range(len(inside))
    last_QH = torch.stack([expected[row, int(inside[row].sum()) - 1] for row in rows])
    assert model.head is not None
    torch.testing.assert_close(reading.outputs_QT, last_QH @ model.head.score.weight.T, rtol=1e-5, atol=1e-5)


def test_a_fresh_head_begins_at_the_mean_of_the_targets(folder: Path) -> None:
    model = build(folder, head=HeadConfig(("depth", "length", "tone"), "mean"))
    targets = [[4.0, math.nan, 1.0], [2.0, math.nan, 3.0], [3.0, math.nan, math.nan], [3.0, math.nan, 2.0]]
    given = [
        Sample(item.id, item.image_paths, item.sequences, targets=[row])
        for item, row in zip(samples(0), targets, strict=True)
    ]
    batch = collate(given, 24, PAD, IMAGE_TOKEN, TOKENS_PER_IMAGE, load_pixels, last_token=True)
    encoder = SimpleNamespace(pad_id=PAD, image_token_id=IMAGE_TOKEN, tokens_per_image=TOKENS_PER_IMAGE)
    processor = SimpleNamespace(image_size=IMAGE_SIZE)
    with pytest.MonkeyPatch.context() as pixels:
        pixels.setattr(Collator, "_load", lambda self, *picture: load_pixels(*picture))
        start_head(model, given, encoder, processor)  # type: ignore[arg-type]
    assert model.head is not None and model.training
    with torch.no_grad():
        reading = read_batch(model, forward_batch(model.eval(), batch), batch, Reads(hidden="mean"))
    torch.testing.assert_close(reading.outputs_QT.mean(0), torch.tensor([3.0, 0.0, 2.0]), rtol=0, atol=1e-5)


def test_an_objective_gets_what_it_reads_and_nothing_else(folder: Path) -> None:
    batch, model = micro_batch(0), build(folder, head=None)
    hidden_SBH = forward_batch(model, batch)
    assert model.head is None
    only_losses = read_batch(model, hidden_SBH, batch, Reads(token_losses=True))
    assert only_losses.token_losses_BS.shape == batch.labels_BS.shape
    for missing in ("hidden_QH", "outputs_QT"):
        with pytest.raises(ValueError, match="the objective does not read hidden"):
            getattr(only_losses, missing)
    both = read_batch(model, hidden_SBH, batch, Reads(token_losses=True, hidden="mean"))
    assert both.hidden_QH.shape == (4, 64) and torch.equal(both.token_losses_BS, only_losses.token_losses_BS)
    with pytest.raises(ValueError, match="token_losses"):
        _ = Reading().token_losses_BS


def test_the_head_computes_in_fp32_and_is_trained_whatever_else_is_frozen(folder: Path) -> None:
    model = build(folder, "bf16")
    assert model.head is not None and model.head.score.weight.dtype == torch.bfloat16
    assert model.head(torch.ones(1, 64, dtype=torch.bfloat16)).dtype == torch.float32
    again = build(folder, "bf16")
    assert again.head is not None and torch.equal(again.head.score.weight, model.head.score.weight), "drawn by the seed"
    set_trainable(model, language=False, projector=False, vision=False, adapters=False)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["head.score.weight"]
    batch = replace(micro_batch(0), targets_QT=torch.ones(4, 3))
    objective = AttributeRegression("attribute_regression", 1, "last", 0.0)
    engine = TrainingEngine(model, objective, OptimConfig(lr=1e-2, schedule="constant", warmup_ratio=0.0), 9, seed=0)
    before = model.head.score.weight.detach().clone()
    losses = [engine.step([batch], step).metrics["loss"] for step in range(8)]
    assert losses[-1] < 0.5 * losses[0] and not torch.equal(before, model.head.score.weight)
