"""The tokenizer of a model folder, opened as a fast one; what is wrong with its files ends in one sentence."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folder_files import TOKENIZER_FILES, check_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MODEL_PROTO = "sentencepiece.sentencepiece_model_pb2"
_ENOUGH = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Open a folder's tokenizer as a fast one; one with sentencepiece's ``tokenizer.model`` alone is converted.

    Raises:
        UserError: there is none, a file is empty, a Git LFS pointer or damaged, or transformers cannot open it.
    """
    folder = Path(folder)
    if not any(all((folder / name).exists() for name in names) for names in _ENOUGH):
        raise UserError(
            f"{folder}: no tokenizer, neither tokenizer.json nor tokenizer.model nor vocab.json with merges.txt. Copy the "
            "tokenizer's files there from the model's repository."
        )
    check_files(folder, TOKENIZER_FILES)
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").exists():
        _provide_model_proto()
    try:
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder, use_fast=True)
    except Exception as error:  # tokenizers and protobuf raise Exception itself
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        named = ", ".join(name for name in TOKENIZER_FILES if (folder / name).exists())
        raise UserError(
            f"{folder}: its tokenizer cannot be opened ({reason}). Read were {named}: copy them again, or have transformers "
            "save them anew as tokenizer.json and tokenizer_config.json."
        ) from None
    return tokenizer


def _provide_model_proto() -> None:
    """Have transformers read tokenizer.model by a description of its format that fits the installed protobuf.

    From 0.2.2 on sentencepiece brings one made for protobuf 7, which protobuf 5 refuses; transformers' own one is older.
    """
    try:
        importlib.import_module(_MODEL_PROTO)
    except ImportError:
        return  # transformers says what is missing
    except Exception:  # protobuf's VersionError, which is nothing more
        fitting = importlib.import_module("transformers.utils.sentencepiece_model_pb2_new")
        sys.modules[_MODEL_PROTO] = fitting
        package, _, name = _MODEL_PROTO.partition(".")
        setattr(sys.modules[package], name, fitting)
