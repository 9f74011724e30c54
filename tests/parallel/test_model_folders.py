"""Model folders against what transformers opens and computes: spellings that mean the same, stale files, unusable weights."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.huggingface import llava_config_from_hf
from nemo_mm_align.model.huggingface_export import export_huggingface
from nemo_mm_align.model.huggingface_origin import Origin
from nemo_mm_align.model.huggingface_reader import WeightFiles
from tests.parallel.test_huggingface import INDEX, SINGLE, load, logits, rewrite, same_tensors
from tests.tiny_llava import make_llava, micro_batch

pytestmark = pytest.mark.usefixtures("process_group")

QUERY = "language_model.model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("folders") / "model")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(original, tmp_path / "folder"))


def reference_logits(folder: Path) -> Tensor:
    """Logits of `micro_batch(0)` by transformers, where rows are not padded."""
    from transformers import LlavaForConditionalGeneration

    batch = micro_batch(0)
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=batch.input_ids_BS, pixel_values=batch.images_NCHW).logits[batch.segment_ids_BS >= 0]


def our_logits(folder: Path) -> Tensor:
    return logits(load(folder))[micro_batch(0).segment_ids_BS >= 0]


def change_config(folder: Path, part: str | None = None, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (values[part] if part else values).update(changes)
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("text_config", {"model_type": "mistral", "sliding_window": None}),
        ("text_config", {"model_type": "mistral", "sliding_window": 4096, "max_position_embeddings": 4096}),
        (None, {"vision_feature_layer": [-2]}),
        ("text_config", {"rope_scaling": {"type": "default"}, "rope_theta": 300.0}),
    ],
)
def test_other_spellings_compute_what_transformers_computes(folder: Path, part: str | None, changes: dict) -> None:
    plain = our_logits(folder)
    change_config(folder, part, **changes)
    expected = reference_logits(folder)
    assert torch.allclose(our_logits(folder), expected, atol=1e-5, rtol=0)
    assert torch.allclose(plain, expected, atol=1e-5, rtol=0) is ("rope_theta" not in changes)


def test_a_mistral_leaves_as_a_mistral(folder: Path, tmp_path: Path) -> None:
    change_config(folder, "text_config", model_type="mistral", sliding_window=None)
    export_huggingface(load(folder), tmp_path / "out", Origin.of_folder(folder))
    assert same_tensors(folder, tmp_path / "out")
    assert torch.equal(reference_logits(tmp_path / "out"), reference_logits(folder))


def test_the_single_file_is_opened_beside_an_older_index(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = make_llava(tmp_path / "older", tied=True, shard_size="100KB")
    for path in (*older.glob("model-*"), older / INDEX):
        shutil.copy(path, folder / path.name)
    expected = load_file(folder / SINGLE)[QUERY]
    with caplog.at_level(logging.WARNING):
        assert torch.equal(
            WeightFiles.of_folder(folder).read("model.language_model.layers.1.self_attn.q_proj.weight"), expected
        )
    assert sum(f"{INDEX} beside it is not read" in message for message in caplog.messages) == 1
    for path in folder.glob("model-*"):
        path.unlink()
    assert torch.allclose(our_logits(folder), reference_logits(folder), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("value", "place"), [(float("nan"), (3, 5)), (float("inf"), (0, 0)), (float("-inf"), (-1, -1))]
)
def test_weights_that_are_no_numbers_are_named(folder: Path, value: float, place: tuple[int, int]) -> None:
    tensor = load_file(folder / SINGLE)[QUERY]
    tensor[place] = value
    rewrite(folder / SINGLE, {QUERY: tensor})
    with pytest.raises(
        UserError, match=rf"model.safetensors: tensor {QUERY} holds 1 values that are no finite numbers"
    ):
        load(folder)


def test_finite_weights_whose_sum_is_none_are_read(folder: Path) -> None:
    tensor = load_file(folder / SINGLE)[QUERY]
    tensor[:4] = torch.finfo(torch.float32).max
    rewrite(folder / SINGLE, {QUERY: tensor})
    load(folder)


def test_uncomputed_tensors_are_not_looked_at(folder: Path) -> None:
    key = "vision_tower.vision_model.post_layernorm.weight"
    rewrite(folder / SINGLE, {key: torch.full_like(load_file(folder / SINGLE)[key], torch.nan)})
    assert bool(torch.isfinite(logits(load(folder))).all())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_numbers_are_refused_even_without_a_word_in_config(folder: Path, dtype: torch.dtype) -> None:
    rewrite(folder / SINGLE, {QUERY: load_file(folder / SINGLE)[QUERY].to(dtype)})
    with pytest.raises(UserError, match=rf"{QUERY} has the number format (F8_E4M3|I8).*dequantised"):
        load(folder)


@pytest.mark.parametrize("suffix", ["_scale", "_scale_inv", ".absmax", ".quant_state.bitsandbytes__nf4", "_zero_point"])
def test_scales_beside_weights_are_refused(folder: Path, suffix: str) -> None:
    rewrite(folder / SINGLE, {QUERY + suffix: torch.ones(1)})
    with pytest.raises(UserError, match="belongs to quantised weights"):
        load(folder)


def test_tensors_of_no_part_are_named_and_travel_on(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(folder / SINGLE, {"language_model.model.layers.0.self_attn.q_proj.bias": torch.ones(64)})
    with caplog.at_level(logging.WARNING):
        model = load(folder)
    assert [
        message for message in caplog.messages if "1 tensors belong to no part" in message and "q_proj.bias" in message
    ]
    assert torch.allclose(our_logits(folder), reference_logits(folder), atol=1e-5, rtol=0)
    export_huggingface(model, tmp_path / "out", Origin.of_folder(folder))
    assert same_tensors(folder, tmp_path / "out")


def test_a_folder_without_surprises_warns_of_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = load_file(folder / SINGLE)
    tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, folder / SINGLE, {"format": "pt"})
    with caplog.at_level(logging.WARNING):
        load(folder)
    assert not [record for record in caplog.records if record.name.startswith("nemo_mm_align")]


@pytest.mark.parametrize("name", ["config.json", SINGLE])
def test_a_git_lfs_pointer_is_called_one(folder: Path, name: str) -> None:
    (folder / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1843\n")
    with pytest.raises(UserError, match=rf"{name}: is a Git LFS pointer.*git lfs pull"):
        load(folder)


def test_adapters_beside_the_weights_change_nothing_unseen(folder: Path) -> None:
    """transformers applies them; so the folder is refused before a weight is read."""
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder)})
    )
    (folder / SINGLE).write_bytes(b"")
    with pytest.raises(UserError, match="adapters lie beside the weights"):
        llava_config_from_hf(folder)


def test_a_tensor_under_two_names_is_refused(folder: Path) -> None:
    rewrite(folder / SINGLE, {QUERY.replace("language_model.model.", "model.language_model."): torch.ones(64, 64)})
    with pytest.raises(UserError, match="which of them counts"):
        load(folder)


@pytest.mark.parametrize("place", ["../other.safetensors", "/tmp/other.safetensors", 3, ""])
def test_an_index_that_leaves_the_folder_is_refused(folder: Path, place: object) -> None:
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {QUERY: place}}))
    with pytest.raises(UserError, match=rf"{INDEX}: places {QUERY} in .* no file of the folder"):
        load(folder)


def test_an_export_that_would_hold_infinity_is_refused(folder: Path, tmp_path: Path) -> None:
    tensor = load_file(folder / SINGLE)[QUERY]
    tensor[1, 2] = 1e5  # fp16 ends at 65504
    rewrite(folder / SINGLE, {QUERY: tensor})
    model, origin = load(folder), Origin.of_folder(folder)
    with pytest.raises(UserError, match=rf"{QUERY} holds values that are no finite numbers in F16"):
        export_huggingface(model, tmp_path / "half", origin, dtype="fp16")
    assert not (tmp_path / "half").exists()
    export_huggingface(model, tmp_path / "out", origin, dtype="bf16")
    assert load_file(tmp_path / "out" / SINGLE)[QUERY][1, 2] == torch.tensor(1e5).to(torch.bfloat16)
