"""Hugging Face folders in and out, in one process: key styles, what travels along, and ways in which a folder is bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.config import EngineConfig, LoRAConfig, VisionConfig
from nemo_mm_align.model.huggingface import llava_config_from_hf, load_huggingface
from nemo_mm_align.model.huggingface_compose import compose_llava
from nemo_mm_align.model.huggingface_export import Companions, export_huggingface
from nemo_mm_align.model.huggingface_names import canonical_name
from nemo_mm_align.model.huggingface_origin import Origin
from nemo_mm_align.model.huggingface_peft import export_peft, load_peft, projector_is_trained
from nemo_mm_align.model.llava import Llava, build_llava
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import with_attributes
from nemo_mm_align.schema.records import Turn
from tests.float64 import TOLERANCE, Float64
from tests.tiny_llava import LORA, make_llava, micro_batch
from tests.unit.toy_tokenizers import byte_level

pytestmark = pytest.mark.usefixtures("process_group")

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    work = tmp_path_factory.mktemp("folders")
    return {
        "untied": make_llava(work / "untied"),
        "tied": make_llava(work / "tied", tied=True),
        "sharded": make_llava(work / "sharded", shard_size="100KB"),
    }


@pytest.fixture
def folder(originals: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy to damage, of the kind that the test names (default: untied, one file)."""
    return Path(shutil.copytree(originals[getattr(request, "param", "untied")], tmp_path / "folder"))


def load(folder: Path, lora: LoRAConfig | None = None, precision: str = "fp32") -> Llava:
    engine = EngineConfig(precision=precision)
    model = build_llava(llava_config_from_hf(folder), engine=engine, lora=lora, initialize=False)
    load_huggingface(model, folder)
    return model.eval()


def logits(model: Llava) -> Tensor:
    batch = micro_batch(0)
    with torch.no_grad():
        return model.logits(model(batch.input_ids_BS, batch.position_ids_BS, None, batch.images_NCHW))


def largest_difference(actual: Tensor, expected: Tensor) -> float:
    """Over the largest expected value."""
    return float((actual - expected).abs().max() / expected.abs().max())


def rewrite(path: Path, change: dict[str, Tensor | None]) -> None:
    """Replace (or with None remove) tensors of a safetensors file."""
    tensors = load_file(path) | {key: value for key, value in change.items() if value is not None}
    save_file(
        {key: value for key, value in tensors.items() if change.get(key, value) is not None}, path, {"format": "pt"}
    )


def same_tensors(first: Path, second: Path) -> bool:
    before, after = (
        {k: v for p in folder.glob("*.safetensors") for k, v in load_file(p).items()} for folder in (first, second)
    )
    return before.keys() == after.keys() and all(
        before[key].dtype == after[key].dtype and torch.equal(before[key], after[key]) for key in before
    )


@pytest.mark.parametrize("style", ["transformers 5", "flat vision tower"])
def test_other_key_styles(folder: Path, tmp_path: Path, style: str) -> None:
    expected = logits(load(folder))
    tensors = load_file(folder / SINGLE)
    renamed = {canonical_name(key): value for key, value in tensors.items()}
    if style == "flat vision tower":
        renamed = {key.replace(".vision_model.", "."): value for key, value in renamed.items()}
    assert renamed.keys().isdisjoint(tensors)
    save_file(renamed, folder / SINGLE, {"format": "pt"})
    model = load(folder)
    assert torch.equal(logits(model), expected)  # the same weights through the same kernels
    export_huggingface(model, tmp_path / "out", Origin.of_folder(folder))
    assert same_tensors(folder, tmp_path / "out")


def test_weights_are_cast_on_the_way_in_and_out(folder: Path, tmp_path: Path) -> None:
    model = load(folder, precision="bf16")
    export_huggingface(model, tmp_path / "out", Origin.of_folder(folder), dtype="bf16")
    before, after = load_file(folder / SINGLE), load_file(tmp_path / "out" / SINGLE)
    assert all(torch.equal(after[key], before[key].to(torch.bfloat16)) for key in before)
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("folder", ["tied"], indirect=True)
def test_a_tied_output_layer_in_the_file_is_checked_and_comes_out_again(folder: Path, tmp_path: Path) -> None:
    embedding = load_file(folder / SINGLE)["language_model.model.embed_tokens.weight"]
    rewrite(folder / SINGLE, {"language_model.lm_head.weight": embedding.clone()})
    export_huggingface(load(folder), tmp_path / "out", Origin.of_folder(folder))
    assert same_tensors(folder, tmp_path / "out")
    rewrite(folder / SINGLE, {"language_model.lm_head.weight": embedding + 1})
    with pytest.raises(UserError, match="lm_head.weight differs.*tie_word_embeddings"):
        load(folder)


def test_model_without_origin_opens_in_transformers(folder: Path, tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    export_huggingface(load(folder), tmp_path / "out", max_shard_bytes=200_000)
    batch = micro_batch(0)
    with Float64(), torch.no_grad():
        opened, info = LlavaForConditionalGeneration.from_pretrained(
            tmp_path / "out", dtype=torch.float64, output_loading_info=True
        )
        theirs = opened(input_ids=batch.input_ids_BS, pixel_values=batch.images_NCHW).logits
        ours = logits(load(folder))
    assert not any(info.values()), info
    inside = batch.segment_ids_BS >= 0
    assert largest_difference(theirs[inside], ours[inside]) <= TOLERANCE


def test_origin_survives_without_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "LICENSE").write_text("free")
    (tmp_path / "kept").mkdir()
    Origin.of_folder(folder).save(tmp_path / "kept")
    export_huggingface(load(folder), tmp_path / "out", Origin.of_folder(tmp_path / "kept"))
    assert same_tensors(folder, tmp_path / "out")
    assert (tmp_path / "out/LICENSE").read_text() == "free"
    assert json.loads((tmp_path / "out/config.json").read_text()) == json.loads((folder / "config.json").read_text())


@pytest.fixture
def chatml(repository: Path) -> ChatTemplate:
    import yaml

    return ChatTemplate.from_config(yaml.safe_load((repository / "conf/template/chatml.yaml").read_text()))


def test_exported_processor_does_what_ours_does(
    folder: Path, tmp_path: Path, chatml: ChatTemplate, helpsteer: AttributeSchema
) -> None:
    """Text with attributes, number of image tokens, pixels of an oblong image."""
    from transformers import AutoProcessor

    byte_level().save_pretrained(folder)
    processor = ImageProcessor(image_size=28)
    companions = Companions(chatml.jinja(helpsteer), processor.to_hf(), {"eos_token_id": 4})
    export_huggingface(load(folder), tmp_path / "out", Origin.of_folder(folder), companions=companions)
    theirs = AutoProcessor.from_pretrained(tmp_path / "out")
    ratings = dict.fromkeys(helpsteer.names, 3)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    text = theirs.apply_chat_template([message], add_generation_prompt=True, attributes=ratings)
    turns = with_attributes([Turn(role="user", content="<image>\nWhat is it?")], helpsteer, ratings)
    assert text == chatml.render(turns, add_generation_prompt=True)
    pixels = numpy.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=numpy.uint8)
    inputs = theirs(text=text, images=Image.fromarray(pixels), return_tensors="pt")
    assert int((inputs.input_ids == theirs.image_token_id).sum()) == 4
    assert "token_type_ids" not in inputs
    assert numpy.abs(inputs.pixel_values[0].numpy() - processor(Image.fromarray(pixels))).max() <= 1e-5  # no sums
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == 4


def test_adapters_travel_as_a_peft_folder(folder: Path, tmp_path: Path) -> None:
    model = load(folder, LORA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapters." in name or name.startswith("projector."):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    export_peft(model, tmp_path / "adapters", str(folder), dtype="fp32")
    returned = load(folder, LORA)
    load_peft(returned, tmp_path / "adapters")
    assert torch.equal(logits(returned), logits(model))
    assert not torch.equal(logits(returned), logits(load(folder)))
    assert projector_is_trained(model, folder) and not projector_is_trained(load(folder, LORA), folder)
    export_huggingface(model, tmp_path / "base", Origin.of_folder(folder), merge=False)
    export_peft(model, tmp_path / "alone", str(tmp_path / "base"), dtype="fp32", projector=False)
    served = load(tmp_path / "base", LORA)
    load_peft(served, tmp_path / "alone")
    assert torch.equal(logits(served), logits(model))
    with pytest.raises(UserError, match="rank=4.*rank=8"):
        load_peft(load(folder, LoRAConfig(rank=8, alpha=8, dropout=0.0)), tmp_path / "adapters")
    with pytest.raises(UserError, match="no adapters"):
        export_peft(load(folder), tmp_path / "more", str(folder))


@pytest.mark.parametrize("folder", ["sharded"], indirect=True)
def test_missing_shard(folder: Path) -> None:
    victim = sorted(folder.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(UserError, match=f"{victim.name}: no such file, so the folder is incomplete"):
        load(folder)


@pytest.mark.parametrize("folder", ["sharded"], indirect=True)
def test_index_that_names_another_file(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    key, file = next(iter(index["weight_map"].items()))
    index["weight_map"][key] = next(name for name in index["weight_map"].values() if name != file)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"holds no tensor {key}"):
        load(folder)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_truncated_file(folder: Path, kept: int) -> None:
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:kept])
    with pytest.raises(UserError, match=r"model.safetensors: (truncated or )?not a safetensors file|truncated"):
        load(folder)


def test_missing_tensor(folder: Path) -> None:
    rewrite(folder / SINGLE, {"language_model.model.layers.2.mlp.up_proj.weight": None})
    with pytest.raises(UserError, match=r"layers.2.mlp.up_proj.weight is in none of model.safetensors"):
        load(folder)
    with pytest.raises(UserError, match=r"layers.2.mlp.up_proj.weight is in none of model.safetensors"):
        Origin.of_folder(folder)


def test_tensor_of_another_shape(folder: Path) -> None:
    rewrite(folder / SINGLE, {"language_model.model.norm.weight": torch.ones(32)})
    with pytest.raises(UserError, match=r"model.safetensors: .*norm.weight has shape \[32\].*\[64\]"):
        load(folder)


def test_config_of_another_model(folder: Path, originals: dict[str, Path]) -> None:
    model = load(folder)
    with pytest.raises(UserError, match="tie_word_embeddings is True there, the model was built with False"):
        load_huggingface(model, originals["tied"])
    with pytest.raises(UserError, match="tie_word_embeddings"):
        export_huggingface(model, folder.parent / "out", Origin.of_folder(originals["tied"]))
    assert not (folder.parent / "out").exists()


def test_pickled_weights_are_not_opened(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safe_serialization"):
        load(folder)


def test_nothing_is_overwritten(folder: Path) -> None:
    before = (folder / SINGLE).read_bytes()
    with pytest.raises(UserError, match="exists already"):
        export_huggingface(load(folder), folder)
    assert (folder / SINGLE).read_bytes() == before


def test_unknown_dtype(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fp32, bf16, fp16"):
        export_huggingface(load(folder), tmp_path / "out", dtype="float8")


def make_language_model(folder: Path, vocabulary: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def word_tokenizer(folder: Path, *words: str) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=words[-1]).save_pretrained(folder)


def test_composed_llava_keeps_language_model_and_tower(tmp_path: Path, chatml: ChatTemplate) -> None:
    from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel

    make_language_model(tmp_path / "language", vocabulary=4)
    word_tokenizer(tmp_path / "language", "a", "b", "<|im_start|>", "<|im_end|>")
    CLIPVisionModel(CLIPVisionConfig(32, 48, 16, 3, 4, image_size=28, patch_size=14)).save_pretrained(
        tmp_path / "tower"
    )
    config = compose_llava(tmp_path / "language", tmp_path / "tower", tmp_path / "out", chatml)
    assert (config.image_token_id, config.language.vocab_size) == (4, 5)
    ids, positions = torch.tensor([[0, 1, 2, 3, 1, 0]]), torch.arange(6).view(1, -1)
    pixels = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    with Float64(), torch.no_grad():
        language, tower = (
            kind.from_pretrained(tmp_path / name, dtype=torch.float64)
            for kind, name in ((AutoModelForCausalLM, "language"), (CLIPVisionModel, "tower"))
        )
        model = load(tmp_path / "out")
        assert largest_difference(model.logits(model(ids, positions, None))[..., :4], language(ids).logits) <= TOLERANCE
        features = tower(pixels, output_hidden_states=True).hidden_states[-2]
        assert largest_difference(model.vision_tower(pixels), features) <= TOLERANCE
    embedding = model.language_model.embedding.word_embeddings.weight.detach()
    assert largest_difference(embedding[4], embedding[:4].mean(dim=0)) <= 1e-6  # stored in fp32


def test_composed_llava_with_a_drawn_tower(tmp_path: Path, chatml: ChatTemplate) -> None:
    make_language_model(tmp_path / "language", vocabulary=60)
    word_tokenizer(tmp_path / "language", "a", "b", "<|im_start|>", "<|im_end|>")
    vision = VisionConfig(3, 32, 48, 4, 28, 14)
    config = compose_llava(tmp_path / "language", vision, tmp_path / "one", chatml, seed=5)
    compose_llava(tmp_path / "language", vision, tmp_path / "two", chatml, seed=5)
    assert (config.image_token_id, config.language.vocab_size) == (4, 60)  # the vocabulary's padding had room
    assert (tmp_path / "one" / SINGLE).read_bytes() == (tmp_path / "two" / SINGLE).read_bytes()
    load(tmp_path / "one")
    with pytest.raises(UserError, match="no token '</s>'"):
        compose_llava(tmp_path / "language", vision, tmp_path / "three", chatml.model_copy(update={"stop": "</s>"}))
