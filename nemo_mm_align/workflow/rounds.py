"""What stands between the stages of rounds: shares of the prompts, sets put together, and a review of each round.

``scripts/rounds.py`` runs one of them, as conf/rounds.yaml says.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nemo_mm_align.core.atomic import replacing, write_text
from nemo_mm_align.core.configuration import Count, NotNegative, StrictModel, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.links import lead_to
from nemo_mm_align.core.run_health import Rule
from nemo_mm_align.datasets.relocate import path_below
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.workflow.round_files import MODEL_LINK, RoundFiles
from nemo_mm_align.workflow.round_record import (
    RoundRecord,
    Samples,
    Trained,
    read_record,
    read_samples,
    read_trained,
    read_training_set,
)
from nemo_mm_align.workflow.round_table import write_table

logger = logging.getLogger(__name__)

Reason = Rule | Literal["diverged"]
"""What can be found of a training that ends the rounds."""


class ShareSettings(StrictModel):
    """Prompts of one file as disjoint shares.

    Args:
        prompts: JSONL.
        count: of shares: the first one has the lines 1, 1 + count, ..., so that all have the file's mixture.
        image_root: where the images lie that relative paths name; None: beside `prompts`.
    """

    prompts: Path
    count: Count
    image_root: Path | None = None


class GatherSettings(StrictModel):
    """Training sets of several rounds as one.

    Args:
        sets: JSONL of records with an ``id``, one file per round.
        out: to write; the ids begin with the round they are of.
    """

    sets: list[Path] = Field(min_length=1)
    out: Path


class ReviewSettings(StrictModel):
    """A look at a round.

    Args:
        number: of the round, from 1.
        sampled_from: the model that answered its prompts.
        annotations: of its samples.
        training_set: that was built of them, with the summary beside it.
        run: folder of its training; None: before it, when only the samples are looked at.
        stop_on: rules of the training's verdict any of which, if it worries, makes this the last round, a bad one.
        least_gain: by how much the mean score of the samples must be above that of the round before; None: no matter how much.
    """

    number: Count
    sampled_from: str
    annotations: Path
    training_set: Path | None = None
    run: Path | None = None
    stop_on: list[Reason] = []
    least_gain: NotNegative | None = None


class RoundSteps(StrictModel):
    """conf/rounds.yaml; of the three sections the one that `step` names is read."""

    step: Literal["share", "gather", "review"]
    results: Path
    attribute_schema: AttributeSchema
    share: ShareSettings
    gather: GatherSettings
    review: ReviewSettings


def run_step(values: Mapping[str, Any]) -> None:
    """Run the step of conf/rounds.yaml, composed, as plain values.

    Raises:
        UserError: a setting is missing or wrong, a file is not there, or fewer prompts than shares.
    """
    results = Path(str(values["results"]))
    schema = read(AttributeSchema, values["attribute_schema"], "attribute_schema")
    steps: dict[str, tuple[type[StrictModel], Callable[[Any], object]]] = {
        "share": (ShareSettings, lambda found: share(found, results)),
        "gather": (GatherSettings, gather),
        "review": (ReviewSettings, lambda found: review(found, results, schema)),
    }
    step = values["step"]
    if step not in steps:
        raise UserError(f"step={step!r}: choose from {', '.join(steps)}.")
    kind, run = steps[step]
    run(read(kind, values[step], step))


def share(settings: ShareSettings, results: Path) -> None:
    """Write the shares of the prompts, each into the folder of its round, all or none."""
    found = [RoundFiles(results, number + 1).prompts for number in range(settings.count)]
    for path in found:
        path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        files = [opened.enter_context(replacing(path)) for path in found]
        count = 0
        for record, file in zip(_lines(settings.prompts), itertools.cycle(files), strict=False):
            moved = record if settings.image_root else _moved(record, settings.prompts, found[count % len(found)])
            file.write(json.dumps(moved, ensure_ascii=False) + "\n")
            count += 1
        if count < settings.count:
            raise UserError(f"{settings.prompts}: {count} prompts cannot be shared among {settings.count} rounds.")
    logger.info("%s: %d prompts in %d shares", settings.prompts, count, settings.count)


def gather(settings: GatherSettings) -> None:
    """Write the records of all sets into one file; their images are named from there."""
    count = 0
    with replacing(settings.out) as file:
        for number, path in enumerate(settings.sets, start=1):
            for record in _lines(path):
                moved = _moved(record, path, settings.out) | {"id": f"round_{number}/{record.get('id')}"}
                file.write(json.dumps(moved, ensure_ascii=False) + "\n")
                count += 1
    logger.info("%s: %d examples of %d rounds", settings.out, count, len(settings.sets))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file; whether they are right records is for the stage that reads them next."""
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: no JSON ({error}). Correct or remove it.") from None
            if not isinstance(value, dict):
                raise UserError(f"{path}, line {number}: no JSON object. Correct or remove it.")
            yield value


def _moved(record: dict[str, Any], source: Path, target: Path) -> dict[str, Any]:
    """Return a record whose images, relative to `source`, are found from `target`."""
    if not record.get("images"):
        return record
    folder, place = Path(os.path.abspath(target)).parent, os.path.abspath(source)
    images = [
        image if os.path.isabs(image) else path_below(folder, resolve_image(image, place)) for image in record["images"]
    ]
    return record | {"images": images}


def review(settings: ReviewSettings, results: Path, schema: AttributeSchema) -> RoundRecord:
    """Look at a round: write its record and the table of all so far, decide whether it is the last one.

    A round that ends the rounds leaves its reason in a file that later jobs look for; one that does not, removes it. The link
    ``model`` leads to the last good model: the round's own where its training is good, else the one that gave its samples, or
    (where that one's samples are no better than the samples before) the one before.
    """
    files = RoundFiles(results, settings.number)
    before = _before(results, settings.number)
    found = RoundRecord(
        round=settings.number,
        sampled_from=settings.sampled_from,
        samples=read_samples(settings.annotations, schema),
        model=settings.sampled_from,
    )
    reason = _no_gain(found.samples, before, settings)
    _mark(files.stopped_by_samples, reason)
    if reason is not None and before is not None and _score(found) <= _score(before):
        found = found.model_copy(update={"model": before.sampled_from})
    elif reason is None and settings.run is not None and settings.training_set is not None:
        trained = read_trained(settings.run)
        reason = _bad(trained, settings)
        _mark(files.stopped_by_training, reason)
        model = settings.sampled_from if reason else str(settings.run)
        built = read_training_set(settings.training_set)
        found = found.model_copy(update={"trained": trained, "training_set": built, "model": model})
    found = found.model_copy(update={"stopped": reason})
    files.folder.mkdir(parents=True, exist_ok=True)
    write_text(files.record, found.model_dump_json(indent=1) + "\n")
    _lead(results, Path(os.path.abspath(found.model)))
    logger.info("\n%s", write_table(results, [*_earlier(results, settings.number), found]))
    return found


def _earlier(results: Path, number: int) -> list[RoundRecord]:
    records = [read_record(RoundFiles(results, earlier).record) for earlier in range(1, number)]
    return [record for record in records if record is not None]


def _before(results: Path, number: int) -> RoundRecord | None:
    return read_record(RoundFiles(results, number - 1).record) if number > 1 else None


def _score(record: RoundRecord) -> float:
    assert record.samples is not None
    return record.samples.score


def _no_gain(samples: Samples | None, before: RoundRecord | None, settings: ReviewSettings) -> str | None:
    """Return in words that the samples are not as much better than those before as they must be."""
    if settings.least_gain is None or samples is None or before is None or before.samples is None:
        return None
    gain = samples.score - before.samples.score
    if gain > settings.least_gain:
        return None
    return (
        f"round {settings.number} is not trained: its samples score {samples.score:.3f}, {gain:+.3f} against those of round "
        f"{before.round}, and rounds.least_gain={settings.least_gain:g} asks for more"
    )


def _bad(trained: Trained, settings: ReviewSettings) -> str | None:
    worries = [name for name in trained.worries if name in settings.stop_on]
    if not worries:
        return None
    return (
        f"round {settings.number} is the last: the verdict on its training is {trained.summary} "
        f"(rounds.stop_on: {', '.join(worries)})"
    )


def _mark(path: Path, reason: str | None) -> None:
    if reason is None:
        path.unlink(missing_ok=True)
        return
    logger.warning("%s", reason)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, reason + "\n")


def _lead(results: Path, model: Path) -> None:
    try:
        lead_to(results / MODEL_LINK, model)
    except OSError as error:
        raise UserError(
            f"{results / MODEL_LINK} cannot be made a link to {model} ({error.strerror or error}): the stages after the rounds "
            "look there. Put the results on a file system with links, or remove what stands there."
        ) from None
