"""Runs `prepare` as its command does, on small files with the published field names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from nemo_mm_align.cli.command import with_own_groups
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.datasets.prepare.stage import prepare_from_config
from nemo_mm_align.datasets.prepare.summary import PrepareSummary
from nemo_mm_align.schema.attributes import STEERING_LINE

LINE = STEERING_LINE.replace("{attributes}", "Helpfulness:{},Correctness:{},Coherence:{},Complexity:{},Verbosity:{}")


def prepare(source: str, data: Path | Sequence[Path], out: Path, *overrides: str) -> PrepareSummary | None:
    """Prepare with the shipped configuration; images are not looked for unless asked."""
    names = data if isinstance(data, Path) else f"[{','.join(map(str, data))}]"
    words = [f"source={source}", f"data={names}", f"out={out}", "images=unchecked", *overrides]
    with initialize_config_dir(str(CONF), version_base=None):
        return prepare_from_config(compose("prepare", with_own_groups(words, CONF, "prepare")))


def write_list(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """Write a JSON list, as the authors do."""
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def write_jsonl(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """Write JSONL."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def lrv(image: str, question: str, answer: Any = "No.", task: str = "negative") -> dict[str, Any]:
    """A record of LRV-Instruction."""
    return {"image_id": image, "question": question, "answer": answer, "task": task}


def conversation(*texts: str, **fields: Any) -> dict[str, Any]:
    """A record in LLaVA's form; the user speaks first."""
    speakers = ("human", "gpt")
    messages = [{"from": speakers[place % 2], "value": text} for place, text in enumerate(texts)]
    return {"conversations": messages, **fields}


def steered(image: str, question: str, answer: str, values: Sequence[int], **fields: Any) -> dict[str, Any]:
    """A record of steerlm.json."""
    return conversation(f"<image>\n{question}\n{LINE.format(*values)}", answer, image=image, **fields)
