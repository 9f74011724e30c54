"""One model in transformers, in one process and in every layout: the same logits, losses, gradients and files.

References: transformers' `LlavaForConditionalGeneration` and PEFT's LoRA on it, every tensor random, in float64 (see
tests/float64.py). The work is done by parity_worker.py, three launches for all layouts.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_mm_align.datasets.batch import Batch
from tests.distributed import run_distributed
from tests.float64 import TOLERANCE, Float64
from tests.parallel.differences import step_differences
from tests.tiny_llava import LORA, make_llava, micro_batch

pytestmark = [pytest.mark.parallel, pytest.mark.slow]
MICRO_BATCHES = 4
FP32_MARGIN = 10
"""How much further than transformers in fp32 we may lie, in fp32, from transformers in float64."""


def forward(model: torch.nn.Module, batch: Batch) -> Tensor:
    mask = (batch.segment_ids_BS >= 0).long()
    pixels = batch.images_NCHW[batch.image_index_K]
    return model(input_ids=batch.input_ids_BS, pixel_values=pixels, attention_mask=mask, use_cache=False).logits


def reference(model: torch.nn.Module, names: dict[str, str]) -> dict:
    """Losses and gradients of the step that the worker runs; `names` maps ours to the reference's parameters."""
    batches = [micro_batch(number) for number in range(MICRO_BATCHES)]
    logits = [forward(model, batch) for batch in batches]
    token_losses = torch.stack(
        [
            F.cross_entropy(out.transpose(1, 2), b.labels_BS, reduction="none")
            for out, b in zip(logits, batches, strict=True)
        ]
    )
    loss = token_losses.sum() / sum(batch.num_answer_tokens for batch in batches)
    model.zero_grad()
    loss.backward()
    parameters = dict(model.named_parameters())
    return {
        "loss": float(loss.detach()),
        "token_losses": token_losses.detach(),
        "gradients": {ours: parameters[theirs].grad for ours, theirs in names.items()},
        "logits": [out.detach() for out in logits],
    }


def make_peft(folder: Path, target: Path) -> Path:
    """Put PEFT's LoRA with random A and B on the model and save it."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaForConditionalGeneration

    config = LoraConfig(
        r=LORA.rank,
        lora_alpha=LORA.alpha,
        lora_dropout=0.0,
        target_modules=r".*language_model\.layers\.\d+\.(self_attn\.q_proj|self_attn\.k_proj|self_attn\.v_proj|"
        r"self_attn\.o_proj|mlp\.gate_proj|mlp\.up_proj|mlp\.down_proj)",
        modules_to_save=["multi_modal_projector"],
    )
    model = get_peft_model(LlavaForConditionalGeneration.from_pretrained(folder), config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    model.save_pretrained(target)
    return target


def open_elsewhere(folder: Path, adapters: Path | None = None, attention: str = "sdpa") -> torch.nn.Module:
    """The model in transformers, or PEFT's around it, fp32 or, within `Float64`, float64."""
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration

    model, info = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.get_default_dtype(), attn_implementation=attention, output_loading_info=True
    )
    assert not any(info.values()), info
    return model if adapters is None else PeftModel.from_pretrained(model, adapters, is_trainable=True)


def computed_by_us(model: torch.nn.Module) -> dict[str, str]:
    skipped = ("vision_model.encoder.layers.3.", "post_layernorm")
    return {name: name for name, _ in model.named_parameters() if not any(part in name for part in skipped)}


def adapters_by_our_name(model: torch.nn.Module) -> dict[str, str]:
    """Names without PEFT's own parts; q_proj.lora_A.default.weight -> q_proj.lora_A.weight."""
    names = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            ours = name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", "")
            names[ours] = name
    return names


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, references and the results of all launches."""
    work = tmp_path_factory.mktemp("parity")
    for name, tied in (("untied", False), ("tied", True)):
        folder = make_llava(work / name, tied)
        adapters = make_peft(folder, work / f"{name}-peft")
        with Float64():
            model, adapted = open_elsewhere(folder), open_elsewhere(folder, adapters)
            torch.save(reference(model, computed_by_us(model)), work / f"{name}-full-transformers.pt")
            torch.save(reference(adapted, adapters_by_our_name(adapted)), work / f"{name}-lora-transformers.pt")
    make_llava(work / "half", dtype=torch.float16, shard_size="40KB")
    (work / "half-peft").symlink_to(work / "untied-peft")
    for processes in (1, 2, 4):
        run_distributed("tests.parallel.parity_worker", processes, work)
    return work


@pytest.fixture(scope="module")
def results(work: Path) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for path in work.glob("results-*.json"):
        found |= json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def noise(work: Path) -> dict[str, float]:
    """What rounding alone does to a step in fp32 on this CPU: transformers with two kernels against itself in float64."""
    exact, found = torch.load(work / "untied-full-transformers.pt"), []
    for attention in ("sdpa", "eager"):
        model = open_elsewhere(work / "untied", attention=attention)
        found.append(step_differences(reference(model, computed_by_us(model)), exact))
    return {name: max(differences[name] for differences in found) for name in ("token_losses", "gradient")}


LAYOUTS = ("one", "TP2", "TP2+SP", "PP2", "PP2 uneven", "DP2", "TP2xPP2", "TP2xPP2+SP uneven")
MODELS = ("untied full", "untied lora", "tied full", "tied lora")


def test_logits_equal_those_of_transformers(results: dict) -> None:
    assert results["one"]["logits"]["untied"] <= TOLERANCE
    assert results["one"]["logits"]["tied"] <= TOLERANCE


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_step_equals_that_of_one_process_and_of_transformers(results: dict, layout: str, model: str) -> None:
    run = results[layout][model]
    for reference in ("one", "transformers"):
        assert run[reference]["loss"] <= TOLERANCE
        assert run[reference]["token_losses"] <= TOLERANCE
        assert run[reference]["gradient"] <= TOLERANCE, run[reference]["worst"]
    assert run["copies"] <= TOLERANCE
    # every tensor of the model took part: 3 CLIP layers of 16, 4 decoder layers of 9; adapters: 7 pairs in 4 layers
    expected = {"untied full": 5 + 48 + 4 + 36 + 3, "tied full": 5 + 48 + 4 + 36 + 2}.get(model, 4 + 56)
    assert run["one"]["gradients"] == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fp32_is_as_exact_as_that_of_transformers(results: dict, noise: dict, layout: str) -> None:
    """A margin over the noise of this very CPU; noise itself must be far below bf16's, 4e-3, that an error may bring."""
    assert noise["token_losses"] <= 1e-5 and noise["gradient"] <= 1e-4
    run = results[layout]["fp32"]
    assert run["transformers"]["loss"] <= FP32_MARGIN * noise["token_losses"]  # of the loss itself noise may be 0
    assert run["transformers"]["token_losses"] <= FP32_MARGIN * noise["token_losses"]
    assert run["transformers"]["gradient"] <= FP32_MARGIN * noise["gradient"], run["transformers"]["worst"]
    assert run["copies"] <= FP32_MARGIN * noise["gradient"]
    assert run["transformers"]["gradient"] > TOLERANCE, "computed in float64"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_report_the_layout(results: dict, layout: str) -> None:
    ours, reported = results[layout]["parallel"], results[layout]["layout"]
    for key in ("tensor_model_parallel_size", "pipeline_model_parallel_size"):
        assert reported[key] == ours[key]
    assert reported["data_parallel_size"] == (2 if layout == "DP2" else 1)


@pytest.mark.parametrize("training", ["full", "lora"])
@pytest.mark.parametrize("layout", ["one", "TP2+SP", "PP2"])
@pytest.mark.parametrize("attention", ["with a mask", "without"])
def test_packed_rows_equal_separate_rows(results: dict, layout: str, training: str, attention: str) -> None:
    """Without a mask with recomputation, selective for adapters and full for all weights."""
    packed = results[layout]["packed"][training][attention]
    assert packed["log_probs"] <= TOLERANCE
    assert packed["gradient"] <= TOLERANCE


@pytest.mark.parametrize("training", ["full", "lora"])
@pytest.mark.parametrize("layout", ["TP2+SP", "TP2xPP2"])
def test_levers_change_no_number_under_parallelism(results: dict, layout: str, training: str) -> None:
    levers = results[layout]["levers"][training]
    assert levers["token_losses"] <= TOLERANCE
    assert levers["gradient"] <= TOLERANCE


@pytest.mark.parametrize("model", ["tied", "half"])
@pytest.mark.parametrize("layout", ["one", "TP2", "PP2", "PP2 uneven", "DP2", "TP2xPP2"])
def test_import_and_export_keep_every_bit(results: dict, layout: str, model: str) -> None:
    export = results[layout][f"export {model}"]
    assert export["same"]
    assert export["shards"] > 3
    if model == "tied":  # fp32, as the adapters are stored
        assert export["same adapters"]


@pytest.mark.parametrize("layout", ["one", "TP2xPP2"])
def test_exports_open_elsewhere_with_the_same_logits(work: Path, layout: str) -> None:
    batch = micro_batch(0)
    inside = batch.segment_ids_BS >= 0
    expected = torch.load(work / "tied-lora-transformers.pt")["logits"][0][inside]

    def difference(folder: Path, adapters: Path | None = None) -> float:
        with Float64(), torch.no_grad():
            logits = forward(open_elsewhere(folder, adapters).eval(), batch)[inside]
        return float((logits - expected).abs().max() / expected.abs().max())

    assert difference(work / "tied", work / f"{layout}-tied-apart") <= TOLERANCE
    # a merged file rounds the sum of weights and adapters to fp32, PEFT's own as well
    merged = open_elsewhere(work / "tied", work / "tied-peft").merge_and_unload()
    merged.save_pretrained(work / "tied-merged-by-peft")
    assert difference(work / f"{layout}-tied-merged") <= FP32_MARGIN * difference(work / "tied-merged-by-peft")


@pytest.mark.parametrize("layout", ["one", "TP2"])
def test_full_disk_is_an_error_on_every_rank_and_leaves_nothing(results: dict, layout: str) -> None:
    outcome = results[layout]["full disk"]
    assert all("disk is full" in message for message in outcome["messages"])
    assert outcome["left"] == []
