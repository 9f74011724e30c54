"""Entropy, token accuracy and image sensitivity: against independent computations, and the same at every layout."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from nemo_mm_align.datasets.plan import PlanSettings
from nemo_mm_align.datasets.sources import SourceSettings
from nemo_mm_align.miniature.sources import charts
from nemo_mm_align.miniature.sources.captions import caption
from nemo_mm_align.model import distribution
from nemo_mm_align.model.config import EngineConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.objectives.objective import Reads
from nemo_mm_align.parallel.source import build_from, open_source
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.training.data import BatchShape, Collator, read_samples
from nemo_mm_align.training.image_probe import ImageProbe, draw_exchanges
from nemo_mm_align.training.reading import forward_batch, read_batch
from tests.distributed import REPOSITORY, run_distributed
from tests.parallel.health_worker import build, kto_step, measure, probe
from tests.tiny_llava import make_llava, micro_batch

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("model") / "llava")


def test_entropy_and_accuracy_are_those_of_the_whole_distribution(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "_ELEMENTS", 300)  # 3 positions of 99 tokens at a time
    model, batch = build(folder, ParallelConfig()).eval(), micro_batch(0)
    hidden_SBH = forward_batch(model, batch)
    reading = read_batch(model, hidden_SBH, batch, Reads(token_losses=True, distribution=True))
    log_p_BSV = model.logits(hidden_SBH).detach().double().log_softmax(-1)
    inside = batch.labels_BS >= 0
    expected = torch.distributions.Categorical(logits=log_p_BSV).entropy() * inside
    torch.testing.assert_close(reading.entropies_BS.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(reading.right_BS.bool(), (log_p_BSV.argmax(-1) == batch.labels_BS) & inside)
    plain = read_batch(model, hidden_SBH, batch, Reads(token_losses=True))
    assert torch.equal(plain.token_losses_BS, reading.token_losses_BS)


def test_a_certain_and_an_even_distribution() -> None:
    logits_PV = torch.tensor([[0.0, 0.0, 0.0, 0.0, -torch.inf], [500.0, 0.0, 0.0, 0.0, -torch.inf]])
    entropies_P, highest_P = distribution.summarise_logits(logits_PV)
    assert entropies_P.tolist() == pytest.approx([1.3862944, 0.0]) and highest_P.tolist() == pytest.approx(
        [-1.3862944, 0]
    )


def test_every_layout_tells_the_same(folder: Path, tmp_path: Path) -> None:
    expected = measure(folder, ParallelConfig())
    run_distributed("tests/parallel/health_worker.py", 2, folder, tmp_path / "found.json")
    for layout, found in json.loads((tmp_path / "found.json").read_text()).items():
        for step in ("metrics", "kto"):
            assert found[step] == pytest.approx(expected[step], rel=1e-5, abs=1e-5, nan_ok=True), (layout, step)
        for measured, effect in expected["effects"].items():
            assert found["effects"][measured] == pytest.approx(effect, abs=1e-5), (layout, measured)


def test_the_reference_point_of_kto_is_the_steps(folder: Path) -> None:
    ones, twos, apart = (
        kto_step(folder, ParallelConfig(), size, shared) for size, shared in ((1, True), (2, True), (1, False))
    )
    assert ones["kl"] > 0 and twos == pytest.approx(ones, rel=1e-5) and apart == pytest.approx(ones, rel=1e-5)


def test_neither_dropout_nor_the_micro_batch_size_shows(folder: Path) -> None:
    model = build(folder, ParallelConfig(), LoRAConfig(rank=4, alpha=8, dropout=0.5)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapters." in name:
                parameter.normal_(std=0.2)
    ones, twos, threes = (probe(size).measure(model)["loss"].model_dump() for size in (1, 2, 3))
    assert model.training and twos == pytest.approx(ones, abs=1e-5) and threes == pytest.approx(ones, abs=1e-5)


def captions(folder: Path, count: int) -> Path:
    """Charts, and texts that say what is on them."""
    source, lines = random.Random(3), []
    for number in range(count):
        scene = charts.draw_scene(source)
        charts.draw_chart(scene).save(folder / f"{number}.png")
        question, answer = caption(source, scene)
        turns = [{"role": "user", "content": f"<image>\n{question}"}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"id": f"c{number}", "images": [f"{number}.png"], "turns": turns}))
    path = folder / "captions.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_model_that_sees_is_sensitive_and_one_whose_image_features_are_zero_is_not(tmp_path: Path) -> None:
    source = open_source(REPOSITORY / "nemo_mm_align/miniature/base")
    encoder, recipe = source.encoder(source.template(None), None), find_recipe("sft")
    data = SourceSettings(path=str(captions(tmp_path, 16)))
    samples = read_samples(data, PlanSettings(max_length=256), encoder, recipe, recipe.configured(), None, False)
    exchanges, _ = draw_exchanges(samples, 16, 0, lambda path: path.name)
    collator = Collator(encoder, source.image_processor(), BatchShape(), with_images=True)
    sees = ImageProbe(samples, exchanges, collator, recipe.configured(), micro_batch_size=4)
    model = build_from(source, ParallelConfig(), EngineConfig())
    seen = sees.measure(model)["loss"]
    assert seen.standard_error is not None and seen.effect > 3 * seen.standard_error > 0
    with torch.no_grad():
        for parameter in model.projector.parameters():
            parameter.zero_()
    assert sees.measure(model)["loss"].effect == pytest.approx(0, abs=1e-6)
