"""The stage `annotate`: prompts and candidates in, a model's ratings of them out, as often as needed until all are there.

Shapes: A candidates of a prompt, T attributes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.hashing import hash_bytes
from nemo_mm_align.core.run_files import write_layout
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.inference.annotate_inputs import AttributeRater, ItemPictures, key_of, make_samples, read_items
from nemo_mm_align.inference.annotate_settings import AnnotateSettings
from nemo_mm_align.inference.answer_file import AnswerFile
from nemo_mm_align.inference.identity import rating_facts
from nemo_mm_align.inference.loading import OpenedModel
from nemo_mm_align.inference.requests import Key, request_key
from nemo_mm_align.inference.scores import predicted, scores
from nemo_mm_align.labeling.annotations import rebase_images
from nemo_mm_align.labeling.inputs import Selection
from nemo_mm_align.labeling.items import Item, LabelContext
from nemo_mm_align.labeling.judges.model_head import NAME
from nemo_mm_align.labeling.provenance import settings_of
from nemo_mm_align.parallel import runtime, stopping
from nemo_mm_align.parallel.first_rank import open_on_first_rank, share
from nemo_mm_align.schema.records import Annotation, RatedCandidate

logger = logging.getLogger(__name__)

AnnotationFile = AnswerFile[Annotation]


def annotate(settings: AnnotateSettings, stop: stopping.StopRequest | None = None) -> None:
    """Rate the candidates of every prompt that `out` does not rate yet; every rank calls this.

    Args:
        settings: what to rate, with what and how.
        stop: what a script has listened with since it began.

    Raises:
        UserError: bad input, found before weights are loaded; `out` made with other settings; outputs that are no numbers.
        SystemExit: on SIGTERM, SIGUSR1 or the stop file, after the batch in work; the same command goes on from there.
    """
    with stopping.ending_run(stop, f"what has been rated is in {settings.out}") as request:
        _annotate(settings, request)


def _annotate(settings: AnnotateSettings, stop: stopping.StopRequest) -> None:
    opened = settings.open()
    assert opened.schema is not None
    name = NAME if settings.shuffled_by is None else f"{NAME}:shuffled_images"
    rater = AttributeRater(rating_facts(opened, settings.shuffled_by), name)
    context = LabelContext(rater, opened.schema, want_reference=False)
    runtime.initialize(opened.parallel, settings.seed)
    items: list[Item] = share(open_on_first_rank(lambda: read_items(settings, context)))
    samples = make_samples(items, opened.encoder, opened.source.config.language.max_position_embeddings)
    file = open_on_first_rank(lambda: _open_file(settings, context, items))
    try:
        done = share(file and frozenset(place for place, item in enumerate(items) if key_of(item) in file.sets))
        if len(done) < len(items):
            stop.check()
            _rate(settings, opened, context, items, samples, done, file, stop)
        if file is not None:
            file.finish([key_of(item) for item in items])
            write_layout(settings.out, runtime.layout())
            logger.info("%s: candidates of %d prompts rated, %d of them before", settings.out, len(items), len(done))
    finally:
        if file is not None:
            file.close()


def _open_file(settings: AnnotateSettings, context: LabelContext, items: Sequence[Item]) -> AnnotationFile:
    identity = {
        **settings_of(context, Selection()),
        "values": settings.values,
        "prompts": hash_bytes(settings.prompts.read_bytes()),
        "candidates": hash_bytes(settings.candidates.read_bytes()),
        **({"add_image_placeholders": True} if settings.add_image_placeholders else {}),
    }
    return AnswerFile(settings.out, identity, ItemPictures(items), (Annotation, _key))


def _key(record: Annotation) -> Key:
    return request_key(record.prompt.id, None)


def _rate(
    settings: AnnotateSettings,
    opened: OpenedModel,
    context: LabelContext,
    items: Sequence[Item],
    samples: Sequence[Sample],
    done: frozenset[int],
    file: AnnotationFile | None,
    stop: stopping.StopRequest,
) -> None:
    rater = opened.rater(settings.max_batch_tokens, settings.base)
    for batch in rater.stream(samples, done):
        records = open_on_first_rank(partial(_records, settings, context, items, batch))
        for record in records or ():
            assert file is not None
            file.append(record)
        stop.check()


def _records(
    settings: AnnotateSettings, context: LabelContext, items: Sequence[Item], batch: Mapping[int, Tensor]
) -> list[Annotation]:
    return [annotation(settings, context, items[place], outputs_AT) for place, outputs_AT in batch.items()]


def annotation(settings: AnnotateSettings, context: LabelContext, item: Item, outputs_AT: Tensor) -> Annotation:
    """Return the record of what a head tells of a prompt's candidates; raise `UserError` where that is no number."""
    try:
        values = [predicted(context.schema, outputs_T) for outputs_T in outputs_AT.tolist()]
    except UserError as error:
        raise UserError(f"prompt {item.prompt.id!r}: {error}") from None
    return Annotation(
        prompt=rebase_images(item.prompt, settings.prompts, settings.image_root, settings.out),
        asked=item.candidates.asked,
        candidates=tuple(
            RatedCandidate(
                text=candidate.text,
                finish_reason=candidate.finish_reason,
                ratings=scores(context.schema, told),
                **_real(settings, told),
            )
            for candidate, told in zip(item.candidates.candidates, values, strict=True)
        ),
        judge=context.judge.name,
        schema_name=context.schema.name,
        schema_fingerprint=context.schema.fingerprint,
        configuration=context.fingerprint,
        request_key=item.key,
    )


def _real(settings: AnnotateSettings, told: dict[str, float]) -> dict[str, Any]:
    return {"predicted": told} if settings.values == "real" else {}
