"""`scripts/convert.py` as a user runs it: import, export at another layout, adapters merged and apart, SmolLM2."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.model.huggingface import load_huggingface
from nemo_mm_align.model.llava import build_llava
from nemo_mm_align.parallel import checkpoint, runtime
from nemo_mm_align.parallel.conversion import convert
from nemo_mm_align.parallel.conversion_settings import ConvertSettings
from nemo_mm_align.parallel.source import open_source
from nemo_mm_align.schema.images import ImageProcessor
from tests.distributed import REPOSITORY, run_distributed
from tests.float64 import TOLERANCE, Float64
from tests.tiny_llava import LORA, make_llava, micro_batch
from tests.unit.toy_tokenizers import word_level
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.parallel, pytest.mark.slow]
SCRIPT = REPOSITORY / "scripts/convert.py"
IMAGE_TOKEN = 98


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA folder with tokenizer and image processor."""
    folder = make_llava(tmp_path_factory.mktemp("model") / "llava", dtype=torch.float16)
    tokenizer = word_level()
    text = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = text["model"]["vocab"]
    vocabulary["<image>"] = IMAGE_TOKEN
    text["added_tokens"] = [{**token, "id": vocabulary[token["content"]]} for token in text["added_tokens"]]
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(text))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in text["added_tokens"]
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(ImageProcessor(image_size=28).to_hf()))
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=REPOSITORY)


def test_import_and_export_at_two_layouts(folder: Path, tmp_path: Path) -> None:
    ours, out = tmp_path / "ours", tmp_path / "out"
    arguments = [f"source={folder}", f"out={ours}", "template=vicuna_v1", "tensor_model_parallel_size=2"]
    run_distributed(SCRIPT, 2, "direction=import", *arguments)
    metadata = checkpoint.read_metadata(ours / "step_00000000")
    assert (metadata.layout["tensor_model_parallel_size"], metadata.precision) == (2, "fp32")
    hidden = folder.rename(folder.with_name("moved away"))  # the checkpoint alone must do
    try:
        run_distributed(SCRIPT, 2, "direction=export", f"source={ours}", f"out={out}", "pipeline_model_parallel_size=2")
    finally:
        hidden.rename(folder)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) and after[key].dtype == torch.float16 for key, value in before.items())
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert "Helpfulness:" in (out / "chat_template.jinja").read_text()


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA checkpoint as training writes it, with random adapters and a changed projector."""
    run_folder = tmp_path_factory.mktemp("run")
    runtime.initialize(ParallelConfig(), seed=1)
    source = open_source(folder)
    model = build_llava(source.config, lora=LORA, initialize=False)
    load_huggingface(model, folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    template = yaml.safe_load((REPOSITORY / "conf/template/vicuna_v1.yaml").read_text())
    metadata = checkpoint.CheckpointMetadata(
        step=7, model=source.config.to_dict(), lora=json.loads(json.dumps(vars(LORA))), template=template,
        attribute_schema=None, image_processor=source.image_processor().model_dump(mode="json"), recipe={"name": "dpo"},
        base_path=str(folder), base_fingerprint=source.fingerprint(), precision="fp32",
        versions={"torch": importlib.metadata.version("torch")},
    )  # fmt: skip
    checkpoint.save(run_folder, model, metadata, tokenizer_source=folder)
    runtime.shutdown()
    return run_folder


def test_adapters_merged_and_apart_give_the_same_model(folder: Path, trained: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration

    merged, apart, served = tmp_path / "merged", tmp_path / "apart", tmp_path / "served"
    arguments = ["direction=export", f"source={trained}", "tensor_model_parallel_size=2", "dtype=fp32"]
    run_distributed(SCRIPT, 2, *arguments, f"out={merged}")
    run_distributed(SCRIPT, 2, *arguments, f"out={served}", "adapters=served")
    done = run("direction=export", f"source={trained}", f"out={apart}", "adapters=apart")
    assert done.returncode == 0, done.stderr
    assert "the projector was trained as well" in done.stderr + done.stdout
    batch = micro_batch(1)

    def opened(place: Path, adapters: Path | None = None) -> torch.Tensor:
        model = LlavaForConditionalGeneration.from_pretrained(place, dtype=torch.float64)
        model = model if adapters is None else PeftModel.from_pretrained(model, adapters)
        return model.eval()(input_ids=batch.input_ids_BS, pixel_values=batch.images_NCHW).logits

    with Float64(), torch.no_grad():
        expected = opened(folder, apart)
        # all that is left is the rounding of merged weights to the file's fp32, 6e-8 each, through four layers
        assert (opened(merged) - expected).abs().max() <= 1e-5 * expected.abs().max()
        # nothing was merged there: adapters and projector are the same numbers in other files
        assert (opened(served / "base", served / "adapter") - expected).abs().max() <= 1e-12 * expected.abs().max()
        assert (opened(folder, served / "adapter") - expected).abs().max() > 1e-3 * expected.abs().max()
    assert json.loads((apart / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    settings = json.loads((served / "adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(served / "base") and settings["modules_to_save"] is None
    keys = load_file(served / "adapter/adapter_model.safetensors")
    assert all(
        re.search(r"language_model\.layers\..*\.lora_[AB]\.weight$", key) for key in keys
    )  # vLLM takes no others
    assert "--enable-lora --max-lora-rank 8" in (served / "adapter/README.md").read_text()
    assert "**The projector was trained**" in (apart / "README.md").read_text()


def test_bad_setting_ends_with_a_message(tmp_path: Path) -> None:
    done = run("direction=export", "source=nowhere", f"out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "error: nowhere: no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_export_that_cannot_end_well_is_refused_before_weights_are_read(
    folder: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").touch()
    caplog.set_level(logging.INFO)
    for source, words, message in ((trained, [], "exists already"), (folder, ["adapters=apart"], "has no adapters")):
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
            given = [f"source={source}", f"out={tmp_path / 'out'}", "direction=export", "template=vicuna_v1", *words]
            config = compose("convert", given)
        with pytest.raises(UserError, match=message):
            convert(read(ConvertSettings, OmegaConf.to_container(config, resolve=True)))
    assert "loaded" not in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["direction=import", "template=vicuna_v1"], "is a checkpoint already"),
        (["direction=export", "adapters=glued"], "choose from merged, apart"),
        (["direction=export", "tensor_model_parallel_size=2"], "1 ranks cannot hold"),
        (["direction=export", "dtype=fp12"], "fp32, bf16, fp16"),
        (["direction=away"], "choose from import, export, compose"),
        (["direction=compose"], "template=chatml"),
        (["direction=compose", "template=chatml"], "model=smollm2_llava"),
    ],
)
def test_settings_that_cannot_be(trained: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
        config = compose("convert", [f"source={trained}", f"out={tmp_path / 'out'}", *overrides])
    with pytest.raises(UserError, match=message):
        convert(read(ConvertSettings, OmegaConf.to_container(config, resolve=True)))
    assert not (tmp_path / "out").exists()


def test_smollm2_behind_a_small_tower(smollm2_gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    out = tmp_path / "smollm2"
    done = run("direction=compose", f"source={smollm2_gguf}", "model=smollm2_llava", "template=chatml", f"out={out}")
    assert done.returncode == 0, done.stderr
    processor = AutoProcessor.from_pretrained(out)
    question = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}]
    text = processor.apply_chat_template(question, add_generation_prompt=True)
    text_ids = processor(text=text + "The capital of France is", return_tensors="pt").input_ids
    runtime.initialize(ParallelConfig(), seed=1)
    source = open_source(out)
    image_ids = torch.full((1, source.config.tokens_per_image), source.config.image_token_id)
    ids = torch.cat([text_ids, image_ids, text_ids[:, -4:]], dim=1)
    pixels = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with Float64(), torch.no_grad():
        ours = build_llava(source.config, initialize=False).eval()
        load_huggingface(ours, out)
        logits = ours.logits(ours(ids, torch.arange(ids.shape[1]).view(1, -1), None, pixels))
        theirs = LlavaForConditionalGeneration.from_pretrained(out, dtype=torch.float64)
        expected = theirs(input_ids=ids, pixel_values=pixels).logits
    runtime.shutdown()
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert processor.decode(logits[0, text_ids.shape[1] - 1].argmax()) == " Paris"
    preset = LlavaConfig.from_dict(yaml.safe_load((REPOSITORY / "conf/model/smollm2_llava.yaml").read_text()))
    assert replace(source.config, name=preset.name) == preset
