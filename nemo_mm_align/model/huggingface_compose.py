"""A new LLaVA folder from a Llama-type language model and a CLIP tower: projector, and tower if there is none, random.

This is where visual tuning of another language model starts. Everything is streamed as in an export.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folder_files import check_files, read_object
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig, VisionConfig
from nemo_mm_align.model.huggingface_config import (
    adapter_fault,
    hf_config_from_llava,
    language_from_values,
    vision_from_values,
)
from nemo_mm_align.model.huggingface_export import Companions
from nemo_mm_align.model.huggingface_extras import check_formats
from nemo_mm_align.model.huggingface_gguf import unpack_gguf
from nemo_mm_align.model.huggingface_keys import text_faults, tower_faults, whole_faults
from nemo_mm_align.model.huggingface_names import (
    EMBEDDING,
    OUTPUT,
    file_name,
    uncomputed_vision_shapes,
    weight_pieces,
)
from nemo_mm_align.model.huggingface_origin import Origin, write_json
from nemo_mm_align.model.huggingface_reader import WeightFiles
from nemo_mm_align.model.huggingface_writer import DTYPES, Entry, ShardWriter, new_folder
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.image_settings import has_image_settings
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import Encoder, add_image_token
from nemo_mm_align.schema.tokenizer_files import load_tokenizer

_STANDARD_DEVIATION = 0.02
_LANGUAGE, _TOWER = "model.language_model.", "model.vision_tower.vision_model."


def compose_llava(
    language: str | Path,
    vision: str | Path | VisionConfig,
    target: str | Path,
    template: ChatTemplate,
    seed: int = 1234,
) -> LlavaConfig:
    """Write a Hugging Face LLaVA folder; one process.

    Args:
        language: Hugging Face folder of a Llama-type model with its tokenizer, or a GGUF file of one.
        vision: Hugging Face folder of a CLIP model, or the sizes of a tower to draw at random.
        target: folder to be made.
        template: chat template; its stop text becomes the tokenizer's end-of-text and padding token.
        seed: of everything random.

    Returns:
        The sizes. ``<image>`` is one more token unless the tokenizer has it; its row is the mean of the others.

    Raises:
        UserError: a folder is incomplete or of another architecture, or `target` exists.
    """
    with tempfile.TemporaryDirectory(prefix="gguf-") as scratch:
        folder = Path(language)
        if folder.suffix == ".gguf":
            folder = Path(scratch)
            unpack_gguf(language, folder)
        with new_folder(target) as partial:
            return _compose(folder, vision, partial, template, seed, Path(target).name)


def _compose(
    folder: Path, vision: str | Path | VisionConfig, target: Path, template: ChatTemplate, seed: int, name: str
) -> LlavaConfig:
    values = _read_config(folder, "a Llama-type language model", text_faults)
    language = WeightFiles.of_folder(folder)
    tower = None if isinstance(vision, VisionConfig) else WeightFiles.of_folder(vision)
    tokenizer = _tokenizer(folder, template)
    image_token = add_image_token(tokenizer)
    sizes = language_from_values(values, f"{folder / 'config.json'}: ")
    config = LlavaConfig(
        language=replace(sizes, vocab_size=max(sizes.vocab_size, image_token + 1)),
        vision=vision if isinstance(vision, VisionConfig) else _tower_sizes(Path(vision)),
        image_token_id=image_token,
        name=name,
    )
    config.check(ParallelConfig())
    dtype = language.dtype(EMBEDDING.replace(_LANGUAGE, "model."))
    for files in filter(None, (language, tower)):
        check_formats(files)
    _write_weights(target, config, DTYPES[dtype], dtype, language, tower, seed)
    tokenizer.save_pretrained(target)
    settings = hf_config_from_llava(config, str(DTYPES[dtype]).removeprefix("torch."))
    write_json(target / "config.json", settings)
    image_processor = ImageProcessor(image_size=config.vision.image_size)
    if not isinstance(vision, VisionConfig) and has_image_settings(vision):
        image_processor = ImageProcessor.from_hf(vision).model_copy(update={"pad_to_square": True})
    stop = int(tokenizer.eos_token_id)
    generation = {"eos_token_id": stop, "pad_token_id": stop}
    encoder = Encoder(tokenizer, template, image_token, config.tokens_per_image)
    companions = Companions(template.jinja(None, encoder.bos_text), image_processor.to_hf(), generation)
    companions.write(target, Origin(settings, {}))
    return config


def _tokenizer(folder: Path, template: ChatTemplate) -> Any:
    tokenizer: Any = load_tokenizer(folder)
    if template.stop not in tokenizer.get_vocab():
        raise UserError(
            f"{folder}: the tokenizer has no token {template.stop!r}, with which template {template.name} ends "
            "answers. Choose the template that belongs to the language model."
        )
    tokenizer.add_special_tokens({"eos_token": template.stop})
    tokenizer.pad_token = tokenizer.pad_token or template.stop
    return tokenizer


def _read_config(folder: Path, what: str, faults_of: Callable[[Mapping[str, Any]], Iterator[str]]) -> dict[str, Any]:
    check_files(folder)
    values = read_object(folder / "config.json", what)
    for fault in (*faults_of(values), *filter(None, [adapter_fault(folder)])):
        raise UserError(fault if str(folder) in fault else f"{folder / 'config.json'}: {fault}.")
    return values


def _tower_sizes(folder: Path) -> VisionConfig:
    values = _read_config(folder, "a CLIP model", whole_faults)
    where = f"{folder / 'config.json'}: "
    if "vision_config" in values:  # beside a text tower; transformers lets the older key overrule the newer one
        values = {**(values["vision_config"] or {}), **(values.get("vision_config_dict") or {})}
    for fault in tower_faults(values):
        raise UserError(f"{where}{fault}.")
    return vision_from_values(values, where, feature_layer=-2)


def _write_weights(
    target: Path,
    config: LlavaConfig,
    dtype: torch.dtype,
    dtype_name: str,
    language: WeightFiles,
    tower: WeightFiles | None,
    seed: int,
) -> None:
    shapes = {piece.name: piece.shape for piece in weight_pieces(config, ParallelConfig())}
    shapes |= uncomputed_vision_shapes(config)
    entries = [Entry(file_name(name), dtype_name, shape) for name, shape in shapes.items()]
    with ShardWriter(target, entries) as writer:
        for name, shape in shapes.items():
            if name in (EMBEDDING, OUTPUT) or name.startswith(_LANGUAGE):
                blocks = _language_rows(language, name.replace(_LANGUAGE, "model."), shape)
            elif tower is not None and name.startswith(_TOWER):
                blocks = iter([_of_tower(tower, name.replace(_TOWER, "vision_model."), shape)])
            else:
                blocks = iter([_random(name, shape, seed)])
            for block in blocks:
                writer.write(block.to(dtype))


def _language_rows(files: WeightFiles, name: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield a tensor of the language model, and for added vocabulary the mean of its rows."""
    files.check_names([name])
    tensor = files.read(name)
    added = shape[0] - tensor.shape[0]
    if tensor.shape[1:] != shape[1:] or added < 0 or (added and "norm" in name):
        raise UserError(
            f"{files.path(name)}: {name} has shape {list(tensor.shape)}, config.json asks for {list(shape)}."
        )
    files.check_finite(name, tensor)
    yield tensor
    if added:
        yield tensor.float().mean(dim=0, keepdim=True).expand(added, -1)


def _of_tower(files: WeightFiles, name: str, shape: tuple[int, ...]) -> Tensor:
    files.check_names([name])
    if files.shape(name) != shape:
        raise UserError(f"{files.path(name)}: {name} has shape {list(files.shape(name))}, not {list(shape)}.")
    tensor = files.read(name)
    files.check_finite(name, tensor)
    return tensor


def _random(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Norms at one, biases at zero, the rest normal with the deviation that transformers takes."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "norm" in name or "layrnorm" in name:
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator) * _STANDARD_DEVIATION
