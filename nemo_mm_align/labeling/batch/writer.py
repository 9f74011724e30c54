"""Writes the requests that the ledger lacks, in the form of the judge's service."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.labeling.batch.files import NumberedFiles
from nemo_mm_align.labeling.batch.settings import BatchSettings, batch_judge
from nemo_mm_align.labeling.inputs import LabelInputs
from nemo_mm_align.labeling.items import LabelContext
from nemo_mm_align.labeling.judge_ledger import JudgeLedger
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.ledger import now
from nemo_mm_align.llm.running.progress import track

log = logging.getLogger(__name__)


def write_batch(
    settings: BatchSettings,
    inputs: LabelInputs,
    context: LabelContext,
    ledger: JudgeLedger,
    is_set_aside: Callable[[JudgeLedger, str], bool],
) -> dict[str, Any]:
    """Write one request per line and a manifest beside; return the manifest.

    Args:
        settings: `write` names the file.
        inputs: all prompts of the run, checked.
        context, ledger: prompts with a judgement are left out.
        is_set_aside: whether a key is left alone since it failed too often by its own fault.

    Raises:
        UserError: the files are there already, or the judge's service knows no batches.
    """
    judge, path = batch_judge(context.judge), settings.write
    assert path is not None
    counts: Counter[str] = Counter()
    asked: set[str] = set()
    with NumberedFiles(path, round(settings.max_file_mb * 1e6), settings.max_file_requests) as files:
        for item in track(inputs.items(), "writing requests", len(inputs)):
            if ledger.succeeded(item.key) or item.key in asked:
                counts["known"] += 1
            elif is_set_aside(ledger, item.key):
                counts["set_aside"] += 1
            else:
                asked.add(item.key)
                try:
                    line = judge.batch_request(item.key, item.request(context))
                except CallFailure as failure:
                    counts["unreadable"] += 1
                    log.warning("prompt %s is left out: %s", item.prompt.id, failure.message)
                    continue
                files.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
                counts["requests"] += 1
        manifest = {
            "judge": context.judge.name,
            "configuration": context.fingerprint,
            "settings": dict(context.judge.settings),
            "attribute_schema": context.schema.name,
            "written": now(),
            **{name: counts[name] for name in ("requests", "known", "set_aside", "unreadable")},
            "files": files.finish(),
        }
    if counts["requests"]:
        assert settings.manifest_path is not None
        write_json(settings.manifest_path, manifest, indent=1, ensure_ascii=False)
    _report(path, manifest)
    return manifest


def _report(path: Path, manifest: dict[str, Any]) -> None:
    if not manifest["requests"]:
        log.info("no requests to write: %d known, %d set aside", manifest["known"], manifest["set_aside"])
        return
    files = ", ".join(f"{each['file']} ({each['bytes'] / 1e6:,.1f} MB)" for each in manifest["files"])
    log.info(
        "%d requests in %s: %s; %d prompts are known already, %d set aside. Submit the files as batches of the service, "
        "then read each file of replies with the same command and batch.read=... in place of batch.write=...",
        manifest["requests"],
        path.parent,
        files,
        manifest["known"],
        manifest["set_aside"],
    )
