"""A GGUF file of a Llama-type model as a Hugging Face folder: the form in which small models reach offline machines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.core.errors import UserError

_log = logging.getLogger(__name__)


def unpack_gguf(path: str | Path, folder: str | Path) -> None:
    """Write weights in fp32, config.json and tokenizer of a GGUF file into `folder`; needs the weights' size in memory.

    Raises:
        UserError: no such file, not GGUF, or the packages `gguf` and `accelerate` are missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    try:
        import accelerate  # noqa: F401 - transformers asks for it
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(
            f"{path}: reading GGUF needs two more packages ({error}): pip install gguf accelerate"
        ) from None
    from transformers import AutoModelForCausalLM

    try:
        fields = GGUFReader(path).fields
    except ValueError as error:
        raise UserError(f"{path}: not a GGUF file ({error}).") from None
    _log.info("unpacking %s", path)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model.save_pretrained(folder)
    _tokenizer(path, fields).save_pretrained(folder)


def _tokenizer(path: Path, fields: dict[str, Any]) -> Any:
    """Take transformers' reading of the vocabulary, and special tokens as the file has them (transformers does not)."""
    from tokenizers import decoders
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    def value(name: str) -> Any:
        found = fields.get(f"tokenizer.ggml.{name}")
        return found.contents() if found is not None else None

    read = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    backend = read.backend_tokenizer
    if value("add_bos_token") is False:
        backend.post_processor = None
    if value("model") == "gpt2":
        backend.decoder = decoders.ByteLevel()
    ids = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    numbers = {name: value(f"{word}_token_id") for name, word in ids.items()}
    tokens = {f"{name}_token": read.convert_ids_to_tokens(i) for name, i in numbers.items() if i is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **tokens)
