"""An attribute model as a Hugging Face folder: what transformers computes of it, and the checkpoint that it becomes again."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.inference.rating import Rater, rate_answers
from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.model.head_config import HeadConfig
from nemo_mm_align.model.huggingface_head import MODULE
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.source import build_from, open_source
from nemo_mm_align.schema.records import Turn
from tests.attribute_checkpoints import LORA, attribute_checkpoint, helpsteer
from tests.distributed import REPOSITORY
from tests.golden.worker import run_scripts
from tests.tiny import tiny_llava

pytestmark = pytest.mark.parallel

VARIANTS = {"adapters": ("last", LORA), "whole": ("mean", None)}
TP2, PP2 = "tensor_model_parallel_size=2", "pipeline_model_parallel_size=2"
CALLS = [
    ("export", "adapters", "adapters_out", TP2),
    ("export", "whole", "whole_out", PP2),
    ("import", "whole_out", "whole_back", TP2),
    ("export", "whole_back", "whole_2", TP2),
    ("export", "half", "half_out", "dtype=bf16", TP2),
    ("import", "half_out", "half_back", PP2),
]
ASKED = [
    ("Is there a triangle?", "no there is no triangle", ()),
    ("<image>\nIs there a red circle in the image?", "yes", ("red",)),
    ("<image>\na square and\n<image>\na blue bar?", "the tallest bar shows five", ("blue", "red")),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Pictures, a base, checkpoints with heads, and what `CALLS` makes of them on 2 ranks."""
    folder = tmp_path_factory.mktemp("attributes")
    tiny_llava(folder / "base")
    for colour in ("red", "blue"):
        Image.new("RGB", (30, 40), colour).save(folder / f"{colour}.png")
    runtime.initialize(ParallelConfig(), seed=1)
    for name, (pooling, lora) in VARIANTS.items():
        attribute_checkpoint(folder / name, folder / "base", pooling, lora)
    attribute_checkpoint(folder / "half", folder / "base", "last", precision="bf16")
    calls = [
        ("convert.py", [f"direction={direction}", f"source={folder}/{source}", f"out={folder}/{out}", *words])
        for direction, source, out, *words in CALLS
    ]
    run_scripts(folder, calls, 2)
    yield folder
    runtime.shutdown()


@pytest.fixture(autouse=True, scope="module")
def own_modules(place: Path) -> Iterator[None]:
    """transformers copies a folder's code to a folder of its own; not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(place / "modules"))
        yield


def ours(folder: Path, place: Path) -> Tensor:
    source = open_source(folder)
    encoder = source.encoder(source.template(None), source.schema(None))
    assert source.head is not None
    model = build_from(source, ParallelConfig(), EngineConfig("fp32"), head=source.head)
    samples = [
        Sample(
            question,
            [place / f"{colour}.png" for colour in colours],
            encoder.encode_answers([user(question)], [answer]),
        )
        for question, answer, colours in ASKED
    ]
    return torch.cat(rate_answers(Rater(model, encoder, source.image_processor(), source.head.pooling), samples, False))


def user(text: str) -> Turn:
    return Turn(role="user", content=text)


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, dtype=dtype)
    return model.eval()


def inputs(folder: Path, place: Path, side: str) -> Any:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    texts = [
        processor.apply_chat_template([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
        for question, answer, _ in ASKED
    ]
    processor.tokenizer.pad_token = processor.tokenizer.eos_token  # the toy tokenizer has none
    images = [Image.open(place / f"{colour}.png") for _, _, colours in ASKED for colour in colours]
    given = {"padding": True, "padding_side": side, "add_special_tokens": False, "return_tensors": "pt"}
    return processor(text=texts, images=images, **given)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_computes_the_same_outputs(name: str, side: str, place: Path) -> None:
    expected = ours(place / name, place)
    model = opened(place / f"{name}_out")
    assert type(model).__module__ != MODULE.stem and model.score.weight.dtype == torch.float32
    given = inputs(place / f"{name}_out", place, side)
    lengths = given["attention_mask"].sum(-1)
    assert len(set(lengths.tolist())) == 3
    with torch.no_grad():
        logits = model(**given).logits
        alone = model(input_ids=given["input_ids"][:1][given["attention_mask"][:1] == 1][None]).logits
    assert logits.shape == (3, 5) and logits.dtype == torch.float32
    for found, wanted in ((logits, expected), (alone[0], expected[0])):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert model.config.id2label == dict(enumerate(helpsteer().names))


def test_what_transformers_saves_of_it_opens_again(place: Path, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    model, given = opened(place / "adapters_out"), inputs(place / "adapters_out", place, "right")
    model.save_pretrained(tmp_path / "saved")
    AutoProcessor.from_pretrained(place / "adapters_out").save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(opened(tmp_path / "saved")(**given).logits, model(**given).logits)
    assert open_source(tmp_path / "saved").head == open_source(place / "adapters").head
    assert "language_model.score.weight" in load_file(tmp_path / "saved/model.safetensors")


def test_the_loss_is_over_what_is_known(place: Path) -> None:
    model, given = opened(place / "adapters_out"), inputs(place / "adapters_out", place, "right")
    labels = torch.full((3, 5), torch.nan)
    labels[0, 1], labels[2, 4] = 3.0, 0.0
    with torch.no_grad():
        found = model(**given, labels=labels)
    wanted = ((found.logits[0, 1] - 3) ** 2 + found.logits[2, 4] ** 2) / 2
    assert float(found.loss) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_template_ends_with_the_stop_token_as_in_training(name: str, place: Path) -> None:
    source = open_source(place / name)
    encoder = source.encoder(source.template(None), None)
    given = inputs(place / f"{name}_out", place, "right")
    for ids, mask, (question, answer, _) in zip(given["input_ids"], given["attention_mask"], ASKED, strict=True):
        assert ids[mask == 1].tolist() == encoder.encode_answers([user(question)], [answer])[0].ids


def test_it_is_imported_and_exported_again_bit_by_bit(place: Path) -> None:
    first, second = (load_file(place / folder / "model.safetensors") for folder in ("whole_out", "whole_2"))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    for file in ("config.json", "chat_template.jinja", MODULE.name):
        assert (place / "whole_2" / file).read_bytes() == (place / "whole_out" / file).read_bytes()
    before, back = (open_source(place / folder) for folder in ("whole", "whole_back"))
    assert (back.head, back.schema(None), back.template(None)) == (
        before.head,
        before.schema(None),
        before.template(None),
    )
    assert torch.equal(ours(place / "whole", place), ours(place / "whole_back", place))


def test_a_bf16_model_keeps_its_head_in_fp32(place: Path) -> None:
    tensors = load_file(place / "half_out/model.safetensors")
    assert tensors["language_model.score.weight"].dtype == torch.float32
    assert {value.dtype for key, value in tensors.items() if "score" not in key} == {torch.bfloat16}
    theirs = opened(place / "half_out", torch.bfloat16)
    assert theirs.score.weight.dtype == torch.float32 and theirs.model.dtype == torch.bfloat16
    with torch.no_grad():
        assert theirs(**inputs(place / "half_out", place, "left")).logits.dtype == torch.float32
    weights = []
    for name in ("half", "half_back"):
        source = open_source(place / name)
        assert source.metadata is not None and source.metadata.precision == "bf16"
        model = build_from(source, ParallelConfig(), EngineConfig("bf16"), head=source.head)
        assert model.head is not None
        weights.append(model.head.score.weight.detach())
    assert torch.equal(*weights)


def test_a_training_that_starts_from_it_keeps_the_same_head_and_says_so_of_another(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source(place / "adapters_out")
    weight = load_file(place / "adapters_out/model.safetensors")["language_model.score.weight"]
    for head, kept in ((source.head, True), (HeadConfig(("depth",), "last"), False), (None, False)):
        caplog.clear()
        model = build_from(source, ParallelConfig(), EngineConfig("fp32"), head=head)
        warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert bool(warned) is not kept and (kept or "Its language model was trained to be read by it" in warned[0])
        if kept:
            assert model.head is not None and torch.equal(model.head.score.weight, weight)


def test_it_is_not_asked_for_answers(place: Path) -> None:
    command = [
        sys.executable,
        str(REPOSITORY / "scripts/generate.py"),
        f"checkpoint={place}/adapters_out",
        "question=What?",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    told = "has a head that tells helpfulness, correctness, coherence, complexity, verbosity of answers; it cannot be asked for"
    assert done.returncode == 2 and told in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("part", "key", "value", "fault"),
    [
        ("text_config", "problem_type", "single_label_classification", "text_config.problem_type='single_label"),
        (None, "id2label", {"0": "depth"}, "id2label"),
        (None, "num_labels", 3, "num_labels=3 is not the number of names"),
        (None, "attribute_pooling", "first", "head.pooling='first': choose from last, mean"),
    ],
)
def test_what_its_configuration_says_otherwise_is_refused(
    place: Path, tmp_path: Path, part: str | None, key: str, value: Any, fault: str
) -> None:
    values = json.loads((place / "adapters_out/config.json").read_text())
    (values[part] if part else values)[key] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"config\.json: .*{fault}"):
        open_source(tmp_path)


# What vLLM looks for where it makes a classifier of a generating model: vllm/model_executor/models/adapters.py, as_seq_cls_model
# and _create_pooling_model_cls; models/registry.py, _normalize_arch (commit 3b2aedb, documentation of 0.15 to 0.28). Pooler and
# score of a multimodal model are those of its language model, whose configuration is text_config; earlier releases asked the
# whole's.

ARCHITECTURES = {"LlavaForConditionalGeneration", "LlamaForCausalLM", "LlavaNextForConditionalGeneration"}
SUFFIXES = ("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel")


def generating_architecture(name: str) -> str | None:
    """The known model that a classifier's name is taken to be a conversion of."""
    for suffix in ("ForSequenceClassification", "ForTextEncoding", "EmbeddingModel"):
        for other in SUFFIXES if name.endswith(suffix) else ():
            if name.removesuffix(suffix) + other in ARCHITECTURES:
                return name.removesuffix(suffix) + other
    return None


def test_a_classifier_of_vllm_finds_all_that_it_looks_for(place: Path) -> None:
    from transformers import AutoConfig

    folder = place / "adapters_out"
    config = AutoConfig.from_pretrained(folder)  # no code of the folder is needed for it
    assert generating_architecture(config.architectures[0]) == "LlavaForConditionalGeneration"
    text = config.get_text_config()
    for level in (config, text):
        assert (level.hidden_size, level.num_labels, level.problem_type) == (48, 5, "regression")
        assert getattr(level, "method", None) is None and getattr(level, "classifier_from_token", None) is None
    mapper = {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
    tensors = load_file(folder / "model.safetensors")
    names = {name for name in tensors if not any(name.startswith(prefix) for prefix in mapper)}
    assert names == set(tensors), "the names are vLLM's own already"
    score = tensors["language_model.score.weight"]
    assert score.shape == (text.num_labels, text.hidden_size) and score.dtype == torch.float32
    assert not any(name.endswith("score.bias") for name in names)
    heads = {name.split(".")[0] for name in names}
    assert heads == {"language_model", "vision_tower", "multi_modal_projector"}
    written = json.loads((folder / "config.json").read_text())
    assert written["num_labels"] == written["text_config"]["num_labels"] == 5
    assert written["id2label"] == written["text_config"]["id2label"] and written["label2id"]["verbosity"] == 4
