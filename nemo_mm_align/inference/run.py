"""The stages `sample` and `generate`: prompts in, a file of answers out, as often as needed until all are there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_files import write_layout
from nemo_mm_align.inference.answer_file import AnswerFile
from nemo_mm_align.inference.early import check_mode
from nemo_mm_align.inference.generator import candidate_set
from nemo_mm_align.inference.identity import identity
from nemo_mm_align.inference.image_check import verify_images
from nemo_mm_align.inference.loading import OpenedModel
from nemo_mm_align.inference.pictures import Pictures
from nemo_mm_align.inference.requests import Request, check_lengths, make_requests
from nemo_mm_align.inference.settings import InferenceSettings
from nemo_mm_align.parallel import runtime, stopping
from nemo_mm_align.parallel.first_rank import open_on_first_rank, share
from nemo_mm_align.schema.records import (
    IMAGE_PLACEHOLDER,
    CandidateSet,
    Prompt,
    Turn,
    prompt_kind,
    read_records,
    resolve_image,
)

logger = logging.getLogger(__name__)


def answer_prompts(settings: InferenceSettings, stop: stopping.StopRequest | None = None) -> None:
    """Answer every prompt of the file that `out` does not answer yet; every rank calls this.

    Args:
        settings: what to answer, with what and how.
        stop: what a script has listened with since it began.

    Raises:
        UserError: bad input, found before weights are loaded; `out` made with other settings.
        SystemExit: on SIGTERM, SIGUSR1 or the stop file, after the batch in work; the same command goes on from there.
    """
    with stopping.ending_run(stop, f"what has been answered is in {settings.out}") as request:
        _answer_prompts(settings, request)


def _answer_prompts(settings: InferenceSettings, stop: stopping.StopRequest) -> None:
    prompts_path, out, sampling = settings.prompts, settings.out, settings.sampling
    check_mode(settings)
    assert prompts_path is not None and out is not None
    opened = settings.open()
    drawn = settings.drawn(opened.schema)
    requests = make_requests(
        read_records(prompts_path, prompt_kind(settings.add_image_placeholders)),
        opened.encoder,
        settings.assignments(opened.schema),
        lambda path: resolve_image(path, prompts_path, settings.image_root),
        drawn.of if drawn else None,
    )
    check_lengths(requests, sampling.max_new_tokens, opened.source.config.language.max_position_embeddings)
    runtime.initialize(opened.parallel, settings.seed)
    pictures = Pictures(out, requests)
    file: AnswerFile[CandidateSet] | None = open_on_first_rank(
        lambda: AnswerFile(out, identity(settings, opened, prompts_path, drawn), pictures)
    )
    try:
        done = share(file and frozenset(index for index, item in enumerate(requests) if item.key in file.sets))
        if len(done) < len(requests):
            missing = [item for index, item in enumerate(requests) if index not in done]
            verify_images(_paths(missing))
            if file is not None:
                pictures.read(item.key for item in missing)
            _answer(settings, opened, requests, done, file, stop)
        if file is not None:
            file.finish([request.key for request in requests])
            write_layout(out, runtime.layout())
            logger.info("%s: answers to %d requests, %d of them from before", out, len(requests), len(done))
    finally:
        if file is not None:
            file.close()


def _answer(
    settings: InferenceSettings,
    opened: OpenedModel,
    requests: Sequence[Request],
    done: frozenset[int],
    file: AnswerFile[CandidateSet] | None,
    stop: stopping.StopRequest,
) -> None:
    stop.check()
    generator = opened.generator(settings.max_batch_tokens, settings.base, settings.cuda_graphs)
    for answers in generator.stream(requests, settings.sampling, done):
        for index, candidates in answers.items():
            assert file is not None
            file.append(candidate_set(requests[index], candidates, settings.sampling))
        stop.check()


def answer_question(settings: InferenceSettings) -> list[str]:
    """Answer ``question``, about the files in ``image`` if any; return the answers on rank 0, nothing elsewhere."""
    check_mode(settings)
    question = settings.question or ""
    if IMAGE_PLACEHOLDER not in question:
        question = f"{IMAGE_PLACEHOLDER}\n" * len(settings.image) + question
    images = tuple(str(path.absolute()) for path in settings.image)
    try:
        prompt = Prompt(id="question", images=images, turns=(Turn(role="user", content=question),))
    except ValueError as error:
        raise UserError(f"question: {error}") from None
    opened = settings.open()
    requests = make_requests([prompt], opened.encoder, settings.assignments(opened.schema))
    sampling = settings.sampling
    check_lengths(requests, sampling.max_new_tokens, opened.source.config.language.max_position_embeddings)
    runtime.initialize(opened.parallel, settings.seed)
    verify_images(_paths(requests))
    generator = opened.generator(settings.max_batch_tokens, settings.base, settings.cuda_graphs)
    found = [item for batch in generator.stream(requests, sampling, progress=False) for item in sorted(batch.items())]
    return [candidate.text for _, candidates in sorted(found) for candidate in candidates]


def _paths(requests: Sequence[Request]) -> Iterator[Path]:
    return (path for request in requests for path in request.encoded.image_paths)
