"""The stage `probe`: ridge regression on the features of a frozen model, fitted on one set and told of another.

It is the two-minute baseline of an attribute model: what training adds must show beyond it.

Shapes: N answers, H hidden, T attributes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.kinds import RATED_ANSWERS
from nemo_mm_align.datasets.plan import encode_sample
from nemo_mm_align.datasets.rated import rated_answers
from nemo_mm_align.datasets.relocate import relocate_images
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.inference.loading import OpenedModel, open_for_inference
from nemo_mm_align.inference.probe_settings import ProbeSettings
from nemo_mm_align.inference.rating import Rater, rate_answers
from nemo_mm_align.inference.requests import raise_faults
from nemo_mm_align.inference.ridge import Array, Ridge, fit_ridge
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.source import build_from
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import RatedAnswers
from nemo_mm_align.schema.images import image_fault
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import read_records, write_records

logger = logging.getLogger(__name__)

_DECIMALS = 4


def probe(settings: ProbeSettings) -> None:
    """Fit on ``train``, write what is told of ``heldout`` to ``out`` and how it was fitted beside it; every rank calls it.

    Raises:
        UserError: a faulty record or image, an answer that is too long, or an attribute without values to fit.
    """
    opened = open_for_inference(
        settings.checkpoint, settings.parallel, settings.precision, settings.template, settings.attribute_schema
    )
    assert opened.schema is not None
    samples = [_samples(path, settings, opened) for path in (settings.train, settings.heldout)]
    targets_NT = np.array([values for sample in samples[0] for values in sample.targets or ()])
    _check_known(targets_NT, opened.schema, settings.train)
    runtime.initialize(opened.parallel, settings.seed)
    model = build_from(opened.source, opened.parallel, opened.engine, base=settings.base)
    rater = Rater(model, opened.encoder, opened.image_processor, settings.pooling, "hidden", settings.max_batch_tokens)
    train_NH, heldout_NH = (_features(rater, part) for part in samples)
    if runtime.rank() == 0:
        prompts_N = np.repeat(np.arange(len(samples[0])), [len(sample.sequences) for sample in samples[0]])
        ridge = fit_ridge(train_NH, targets_NT, prompts_N, settings.alphas, settings.folds, settings.seed)
        _write(settings, opened.schema, ridge, ridge.predict(heldout_NH), len(targets_NT))
    torch.distributed.barrier()


def _samples(path: Path, settings: ProbeSettings, opened: OpenedModel) -> list[Sample]:
    """Tokenise the answers of a file; what the model cannot read is named, before any weight is loaded."""
    root = None if settings.image_root is None else str(settings.image_root)
    examples = read_examples(SourceSettings(path=str(path), format="records", image_root=root), opened.schema)
    images = dict.fromkeys(Path(image) for example in examples for image in example.images)
    faults = [fault for image in images if (fault := image_fault(image)) is not None]
    most, samples = opened.source.config.language.max_position_embeddings, []
    for example in examples:
        try:
            samples.append(_sample(example, opened.encoder, most))
        except UserError as error:
            faults.append(f"{path}: prompt {example.id!r}: {error}")
    raise_faults(faults, "Correct or remove these prompts.")
    return samples


def _sample(example: object, encoder: Encoder, most: int) -> Sample:
    if not isinstance(example, RatedAnswers):
        raise UserError("holds no rated answers; build the set with a method that writes these.")
    sample = encode_sample(example, encoder, RATED_ANSWERS)
    longest = max(len(sequence) for sequence in sample.sequences)
    if longest > most:
        raise UserError(f"{longest} tokens with its longest answer, the model has {most} positions.")
    return sample


def _check_known(targets_NT: Array, schema: AttributeSchema, path: Path) -> None:
    known_T = ~np.isnan(targets_NT).all(axis=0)
    unknown = [name for name, known in zip(schema.names, known_T, strict=True) if not known]
    if unknown:
        raise UserError(f"{path}: no answer has a value of {', '.join(unknown)}; there is nothing to fit.")


def _features(rater: Rater, samples: Sequence[Sample]) -> Array:
    """Return the hidden states of all answers, [N, H], on rank 0; nothing elsewhere."""
    parts = rate_answers(rater, samples)
    return np.concatenate([part.double().numpy() for part in parts]) if parts else np.empty((0, rater.width))


def _write(settings: ProbeSettings, schema: AttributeSchema, ridge: Ridge, told_NT: Array, answers: int) -> None:
    low_T, high_T = (np.array([getattr(item, end) for item in schema.attributes]) for end in ("minimum", "maximum"))
    rows = iter(told_NT.clip(low_T, high_T).round(_DECIMALS).tolist())

    def told(record: RatedAnswers) -> RatedAnswers:
        values = [dict(zip(schema.names, next(rows), strict=True)) for _ in record.answers]
        return record.model_copy(update={"answers": rated_answers([item.text for item in record.answers], values)})

    records = relocate_images(read_records(settings.heldout, RatedAnswers), settings.heldout, settings.out)
    count = write_records(settings.out, map(told, records))
    fitted = {
        name: {"alpha": float(alpha), "mean_squared_error_of_folds": None if np.isnan(error) else float(error)}
        for name, alpha, error in zip(schema.names, ridge.alpha_T, ridge.error_T, strict=True)
    }
    facts = {"settings": settings.model_dump(mode="json"), "answers_fitted": answers, "attributes": fitted}
    write_json(settings.out.with_suffix(".fit.json"), facts)
    for name, facts_of in fitted.items():
        logger.info("%s: alpha %g", name, facts_of["alpha"])
    logger.info("wrote %s: %d prompts, fitted on %d answers", settings.out, count, answers)
