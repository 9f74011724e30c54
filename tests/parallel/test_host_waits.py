"""The host waits for the device once per optimizer step and once per decoding step: kernels are launched ahead of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nemo_mm_align.datasets import batch as batch_module
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.model.config import LoRAConfig
from nemo_mm_align.model.head_config import HeadConfig, Pooling
from nemo_mm_align.model.llava import build_llava
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.training.step import TrainingDiverged, TrainingEngine
from tests.gpu import cpu_parity_worker as small
from tests.host_waits import HostWaits
from tests.own_recipe.attribute_regression import AttributeRegression

pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]


@pytest.fixture(autouse=True)
def a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to the device is another tensor there, as no question tells it."""
    monkeypatch.setattr(batch_module, "to_device", on_device)


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty_like(tensor, device=device).copy_(tensor)


def tensors(batch: Batch) -> list[torch.Tensor]:
    return [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("method", ["sft", "dpo"])
@pytest.mark.parametrize("lora", [None, LoRAConfig(8, 16, dropout=0.05)])
@pytest.mark.parametrize("shared", [False, True])
def test_one_wait_per_optimizer_step(method: str, lora: LoRAConfig | None, shared: bool) -> None:
    data = small.batch(shared)
    if method == "dpo":
        data = replace(data, reference_log_probs_Q=torch.full((data.num_sequences,), -100.0))
    engine = TrainingEngine(
        build_llava(small.CONFIG, lora=lora), find_recipe(method).configured(), OptimConfig(), 10, seed=0
    )
    engine.step([data] * 2, 0)
    update: Callable[[], object] = engine.optimizer.step_with_ready_grads
    engine.optimizer.step_with_ready_grads = lambda: None  # torch's AdamW asks for its own counts; a GPU has another
    with HostWaits(tensors(data)) as waits:
        engine.step([data] * 3, 1)
    assert len(waits.found) == 1 and waits.found[0].startswith("tolist"), waits.found
    update()


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("likelihood_weight", [0.0, 0.1])
def test_one_wait_per_step_of_an_objective_that_reads_hidden_states(pooling: Pooling, likelihood_weight: float) -> None:
    data = small.batch(False)
    targets_QT = torch.ones(data.num_sequences, 2)
    targets_QT[0, 1] = math.nan
    data = replace(data, targets_QT=targets_QT)
    model = build_llava(small.CONFIG, lora=LoRAConfig(8, 16), head=HeadConfig(("depth", "length"), pooling))
    objective = AttributeRegression("attribute_regression", 1, pooling, likelihood_weight)
    engine = TrainingEngine(model, objective, OptimConfig(), 10, seed=0)
    engine.step([data] * 2, 0)
    engine.optimizer.step_with_ready_grads = lambda: None
    with HostWaits([*tensors(data), *data.roles.values()]) as waits:
        engine.step([data] * 3, 1)
    assert len(waits.found) == 1 and waits.found[0].startswith("tolist"), waits.found


def test_a_step_in_which_nothing_counts_is_given_up_and_an_empty_micro_batch_is_not() -> None:
    data = replace(small.batch(False), targets_QT=torch.ones(small.ROWS, 1))
    empty = replace(data, targets_QT=torch.full((small.ROWS, 1), math.nan), sample_ids=("e", "f", "g", "h"))
    broken = replace(data, targets_QT=torch.full((small.ROWS, 1), math.inf), sample_ids=("i", "j", "k", "l"))
    model = build_llava(small.CONFIG, lora=LoRAConfig(8, 16), head=HeadConfig(("depth",), "last"))
    engine = TrainingEngine(
        model, AttributeRegression("attribute_regression", 1, "last", 0.0), OptimConfig(), 10, seed=0
    )
    assert math.isfinite(engine.step([data, empty], 0).metrics["loss"])
    with pytest.raises(TrainingDiverged, match="nothing in it counts: none of its samples has a label or a target"):
        engine.step([empty, empty], 1)
    with pytest.raises(TrainingDiverged, match=r"the loss is inf.* Samples: i, j, k, l\."):
        engine.step([empty, broken], 1)


@pytest.mark.parametrize("settings", [SamplingSettings(0, max_new_tokens=6), SamplingSettings(0.8, 0.9, 20, 6, 2)])
def test_one_wait_per_decoding_step(settings: SamplingSettings) -> None:
    prompts, images = small.prompts()
    model = build_llava(small.CONFIG)
    counts = []
    for tokens in (3, 6):
        with HostWaits() as waits:
            generate_batch(model, prompts, images, replace(settings, max_new_tokens=tokens), [-1])
        counts.append(len(waits.found))
    assert counts[1] - counts[0] == 3, waits.found


@pytest.mark.parametrize(
    "question",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: int(x.sum()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.masked_scatter(x > 0, x).sum().backward(),
    ],
)
def test_the_instrument_hears_every_question(question: Callable[[torch.Tensor], object]) -> None:
    device = torch.randn(4, device="cpu", requires_grad=True)
    with HostWaits() as waits:
        question(device * 2)
    assert len(waits.found) == 1, waits.found
    host = torch.ones(4)
    with HostWaits([host]) as silent:
        _ = bool((host > 0).any()), host[host > 0].tolist(), torch.zeros(3).nonzero()
    assert not silent.found
