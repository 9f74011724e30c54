"""Values that no setting was made for, and a small valid call of every command to put them into."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.repository import CONF, ROOT
from nemo_mm_align.model.head_config import HeadConfig
from nemo_mm_align.model.huggingface_head import MODULE, with_head
from nemo_mm_align.schema.attributes import AttributeSchema

BASE = ROOT / "nemo_mm_align/miniature/base"

ODD: dict[str, Any] = {
    "null": None,
    "list": ["a", 1],
    "mapping": {"a": 1},
    "NaN": math.nan,
    "infinity": math.inf,
    "negative": -3,
    "huge": 10**30,
    "huge float": 1e300,
    "fraction": 0.5,
    "zero": 0,
    "true": True,
    "text": "fast",
    "quoted boolean": "false",
    "empty text": "",
    "unwritable path": "/proc/nowhere/x",
    "no UTF-8": "日本\udcff語",
}


def write_inputs(folder: Path) -> None:
    """Write what the calls read: a picture, a prompt, its candidates and annotation, training examples, an API key."""

    def lines(name: str, *records: dict[str, Any]) -> None:
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))

    Image.new("RGB", (28, 28)).save(folder / "a.png")
    question = {"role": "user", "content": "<image>\nhello"}
    lines("prompts.jsonl", {"id": "p", "turns": [question], "images": ["a.png"]})
    answers = [{"text": text, "num_tokens": 2, "finish_reason": "stop"} for text in ("a dog", "a cat")]
    lines("candidates.jsonl", {"prompt_id": "p", "candidates": answers, "sampling": {}})
    lines(
        "train.jsonl",
        {"id": "t", "turns": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]},
    )
    answer = {"text": "yes", "attributes": {"verbosity": 1}}
    lines("rated.jsonl", {"id": "r", "turns": [{"role": "user", "content": "hi"}], "answers": [answer]})
    (folder / "annotations.jsonl").touch()
    (folder / "key").write_text("AIza" + "k" * 35)
    write_rater(folder / "rater")


def write_rater(folder: Path) -> Path:
    """An exported attribute model without its weights, which nobody reads early."""
    folder.mkdir()
    for path in BASE.iterdir():
        if path.suffix in (".json", ".jinja") and path.name != "config.json":
            shutil.copy(path, folder / path.name)
    schema = read(AttributeSchema, yaml.safe_load((CONF / "attribute_schema/helpsteer.yaml").read_text()))
    values = json.loads((BASE / "config.json").read_text())
    size = values["text_config"]["hidden_size"]
    (folder / "config.json").write_text(json.dumps(with_head(values, HeadConfig(schema.names, "last"), schema, size)))
    shutil.copy(MODULE, folder / MODULE.name)
    return folder


def calls(folder: Path) -> dict[str, list[str]]:
    """Words of a valid call of every command; behind a blank stands what tells two calls of one command apart."""
    prompts, annotations = f"prompts={folder}/prompts.jsonl", f"annotations={folder}/annotations.jsonl"
    training = [
        "model=mini",
        f"model.hf_path={BASE}",
        f"data.train={folder}/train.jsonl",
        f"exp_manager.exp_dir={folder}/runs",
    ]
    training += ["precision=fp32", "model.max_length=200", "name=odd"]
    labelling = [prompts, f"candidates={folder}/candidates.jsonl", f"out={folder}/labels.jsonl", "dry_run=true"]
    answering = [f"checkpoint={BASE}", prompts, f"out={folder}/answers.jsonl"]
    rating = [
        f"checkpoint={folder}/rater",
        prompts,
        f"candidates={folder}/candidates.jsonl",
        f"out={folder}/rated.jsonl",
    ]
    job = ["stages=[train]", "run.experiment=dpo_mini_1x2", f"base_results_dir={folder}/results", "dry_run=true"]
    job += [f"train.data.train={folder}/train.jsonl"]
    service = [
        "judge=openai_compatible",
        "judge.base_url=http://127.0.0.1:9",
        "judge.model=m",
        "judge.api_key_variable=null",
    ]
    return {
        "train dpo": ["recipe=dpo", *training],
        "train sft": ["recipe=sft", *training],
        "generate": answering,
        "sample": answering,
        "annotate": rating,
        "probe": [
            f"checkpoint={BASE}",
            *(f"{name}={folder}/rated.jsonl" for name in ("train", "heldout")),
            f"out={folder}/probe.jsonl",
        ],
        "attribute_report": [
            *(f"{name}={folder}/rated.jsonl" for name in ("judged", "predicted")),
            f"out={folder}/report.html",
        ],
        "evaluate": [prompts, "answers={base: x.jsonl}", f"out={folder}/evaluation", *service],
        "label openai_compatible": [*labelling, *service],
        "label gemini": [*labelling, "judge=gemini", f"judge.api_key_file={folder}/key"],
        "label human": [*labelling, "judge=human", "judge.annotator=ann"],
        "build preference": ["method=preference", annotations, f"out={folder}/set.jsonl"],
        "build all_pairs": ["method=all_pairs", annotations, f"out={folder}/set.jsonl"],
        "build attribute_model": ["method=attribute_model", annotations, f"out={folder}/set.jsonl"],
        "build rejection": ["method=rejection", annotations, f"out={folder}/set.jsonl"],
        "agreement": [annotations],
        "estimate": ["model=mini", "recipe=dpo", "nodes=1", "gpus_per_node=2", "model.max_length=400"],
        "convert import": ["direction=import", f"source={BASE}", f"out={folder}/imported"],
        "convert export": ["direction=export", f"source={BASE}", f"out={folder}/exported"],
        "doctor": [],
        "miniature": [f"out={folder}/miniature"],
        "launch bcm": [*job, "cluster=bcm"],
        "launch k8s": [*job, "cluster=k8s", "container=x:y", f"cluster.manifest_dir={folder}/manifests"],
        "benchmark": [],
    }


def keys_of(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key and section of a composed configuration, dotted."""
    for key in config:
        name, node = f"{prefix}{key}", config._get_node(key)
        yield name
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from keys_of(node, f"{name}.")


def put(config: DictConfig, key: str, value: Any) -> None:
    """Set a key to any value at all, whatever the configuration allows."""
    OmegaConf.set_struct(config, False)
    OmegaConf.update(config, key, value, merge=False, force_add=True)
