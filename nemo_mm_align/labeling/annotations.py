"""Ledger -> annotations.jsonl (in prompt order) and the list of prompts that have no judgement."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.labeling.inputs import LabelInputs
from nemo_mm_align.labeling.items import Item, LabelContext
from nemo_mm_align.labeling.judge_ledger import JudgeAttempt, JudgeLedger
from nemo_mm_align.labeling.ledger_check import checked_results
from nemo_mm_align.labeling.provenance import write_settings
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.schema.records import Annotation, Candidate, Prompt, RatedCandidate, write_records


def write_annotations(out: Path, inputs: LabelInputs, ledger: JudgeLedger, context: LabelContext) -> int:
    """Write one `Annotation` per judged prompt, atomically, and return how many there are.

    Without any the file is left as it is (or absent): an empty one would be no valid input of the next stage.
    """
    if not any(ledger.succeeded(key) for key in inputs.keys):
        return 0
    write_settings(out, context, inputs.selection)
    return write_records(out, _annotations(out, inputs, ledger, context))


def write_unlabelled(path: Path, inputs: LabelInputs, ledger: JudgeLedger) -> int:
    """Write one JSON line per prompt without a judgement (id, key, attempts, last failure); return how many there are.

    With none, a list that an earlier run left is removed.
    """
    if all(ledger.succeeded(key) for key in inputs.keys):
        path.unlink(missing_ok=True)
        return 0
    missing = (item for item in inputs.items() if not ledger.succeeded(item.key))
    return write_lines(path, (json.dumps(_describe_failure(item, ledger)) for item in missing))


def rebase_images(prompt: Prompt, prompts: Path, image_root: Path | None, out: Path) -> Prompt:
    """Return the prompt of a file `prompts` with image paths that hold in a file at `out`.

    Paths under an image root stay as they are: the next stage is given the same root. Others become relative to the
    folder of `out` where they lie inside it, and absolute where they do not.
    """
    if image_root is not None or not prompt.images:
        return prompt
    folder = out.parent.absolute()
    paths = [Path(os.path.abspath(resolve_image(image, prompts))) for image in prompt.images]
    images = tuple(str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in paths)
    return prompt.model_copy(update={"images": images})


def _annotations(out: Path, inputs: LabelInputs, ledger: JudgeLedger, context: LabelContext) -> Iterator[Annotation]:
    fingerprint = context.fingerprint
    for item, attempt in checked_results(ledger, inputs.items(), inputs.keys, context.schema):
        if attempt is not None:
            yield Annotation(
                prompt=rebase_images(item.prompt, inputs.prompts, inputs.image_root, out),
                asked=item.candidates.asked,
                candidates=tuple(_rated(item, attempt)),
                reference_answer=attempt.reference_answer,
                judge=context.judge.name,
                schema_name=context.schema.name,
                schema_fingerprint=context.schema.fingerprint,
                configuration=fingerprint,
                request_key=item.key,
                order=attempt.order,
            )


def _rated(item: Item, attempt: JudgeAttempt) -> Iterator[RatedCandidate]:
    candidates: tuple[Candidate, ...] = item.candidates.candidates
    for candidate, ratings, reasoning in zip(candidates, attempt.ratings, attempt.reasoning, strict=True):
        yield RatedCandidate(
            text=candidate.text, finish_reason=candidate.finish_reason, ratings=ratings, reasoning=reasoning
        )


def _describe_failure(item: Item, ledger: JudgeLedger) -> dict[str, object]:
    failures = ledger.failures(item.key)
    last = {"kind": failures.kind, "message": failures.message} if failures.total else {"kind": "not asked yet"}
    return {"prompt_id": item.prompt.id, "request_key": item.key, "failed_attempts": failures.total, **last}
