"""Tokenizers of model folders: converted from sentencepiece, or refused by the name of the file that is to blame."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folder_files import MAX_JSON_BYTES, read_object
from nemo_mm_align.schema.tokenizer_files import load_tokenizer
from tests.unit.toy_tokenizers import SENTENCES, llama_like

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1843000\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llama_like().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def sentencepiece_model() -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 10), model_writer=model, vocab_size=340, model_type="bpe", byte_fallback=True,
        hard_vocab_limit=False, character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


OPEN = """
import json, sys, sentencepiece
folder, newer, sentences = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if newer:
    sentencepiece.__path__ = [newer]
from nemo_mm_align.core.folder_files import MAX_JSON_BYTES, read_object
from nemo_mm_align.schema.tokenizer_files import load_tokenizer
tokenizer = load_tokenizer(folder)
tokenizer.save_pretrained(folder + "/saved")
print(json.dumps([tokenizer(text).input_ids for text in sentences]))
"""


@pytest.mark.parametrize("newer", [False, True], ids=["as installed", "made for a newer protobuf"])
def test_a_sentencepiece_model_alone_is_converted(tmp_path: Path, sentencepiece_model: bytes, newer: bool) -> None:
    """Ids are sentencepiece's own, bos in front as Llama's convention is. A process each: protobuf forgets no description."""
    import sentencepiece

    if newer:  # as importing a description does that a newer compiler wrote
        (tmp_path / "newer").mkdir()
        (tmp_path / "newer/sentencepiece_model_pb2.py").write_text("raise Exception('gencode 99, runtime 5')")
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    texts = [*SENTENCES, "Žluťoučký 🐎"]
    words = [sys.executable, "-c", OPEN, str(tmp_path), str(tmp_path / "newer") if newer else "", json.dumps(texts)]
    light = {**os.environ, "USE_TORCH": "0"}  # transformers imports it in five seconds, and tokenizers do not need it
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=light)
    own = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    assert json.loads(done.stdout) == [[own.bos_id(), *own.encode(text)] for text in texts]
    assert (tmp_path / "saved/tokenizer.json").exists()


def test_a_sound_folder_opens(folder: Path) -> None:
    assert load_tokenizer(folder)("yes").input_ids == llama_like()("yes").input_ids


def test_no_tokenizer_at_all(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer, neither tokenizer\.json nor tokenizer\.model nor vocab\.json"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(("text", "fault"), [("", "is empty"), (" \n", "is empty"), (LFS, "is a Git LFS pointer")])
def test_files_without_content_are_named(folder: Path, name: str, text: str, fault: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name}: {fault}"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["tokenizer.model", "added_tokens.json"])
def test_so_are_files_beside_a_sound_tokenizer(folder: Path, name: str) -> None:
    (folder / name).write_text(LFS)
    with pytest.raises(UserError, match=rf"{name}: is a Git LFS pointer"):
        load_tokenizer(folder)


@pytest.mark.parametrize("text", ["{", '{"version": "1.0"}', "[]"])
def test_a_damaged_tokenizer_is_named(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"its tokenizer cannot be opened \(.+\)\. Read were tokenizer\.json"):
        load_tokenizer(folder)


def test_a_damaged_sentencepiece_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x00\x01no model")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(UserError, match=r"its tokenizer cannot be opened \(.+\)\. Read were tokenizer\.model"):
        load_tokenizer(tmp_path)


def test_long_settings_files_are_not_parsed(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.write(b"{")
        file.truncate(MAX_JSON_BYTES + 1)  # a hole: no bytes on the disk
    with pytest.raises(UserError, match="at most 67,108,864 are parsed"):
        read_object(tmp_path / "config.json", "sizes")


def test_deep_settings_files_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="config.json: cannot be read"):
        read_object(tmp_path / "config.json", "sizes")


def test_more_tokens_than_embeddings(repository: Path, tmp_path: Path) -> None:
    from nemo_mm_align.parallel.source import open_source

    base = Path(shutil.copytree(repository / "nemo_mm_align/miniature/base", tmp_path / "base"))
    source = open_source(base)
    source.encoder(source.template(None), None)
    values = json.loads((base / "config.json").read_text())
    values["text_config"]["vocab_size"] = 205
    (base / "config.json").write_text(json.dumps(values))
    smaller = open_source(base)
    with pytest.raises(UserError, match="tokenizer has ids up to 206, the model embeddings for 205 tokens"):
        smaller.encoder(smaller.template(None), None)
