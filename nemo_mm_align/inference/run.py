"""The stages `sample` and `generate`: prompts in, a file of answers out, as often as needed until all are there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.answering import Answering, answer_all, paths_of
from nemo_mm_align.inference.early import check_mode
from nemo_mm_align.inference.generator import Generator
from nemo_mm_align.inference.image_check import verify_images
from nemo_mm_align.inference.loading import OpenedModel
from nemo_mm_align.inference.requests import check_lengths, make_requests
from nemo_mm_align.inference.settings import InferenceSettings
from nemo_mm_align.inference.task_files import settings_by_file
from nemo_mm_align.parallel import runtime, stopping
from nemo_mm_align.parallel.first_rank import share
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Prompt, Turn


def answer_prompts(
    settings: InferenceSettings, stop: stopping.StopRequest | None = None, rolls_out: bool = False
) -> None:
    """Answer every prompt of the file that `out` does not answer yet; every rank calls this.

    Args:
        settings: what to answer, with what and how.
        stop: what a script has listened with since it began.
        rolls_out: whether follow-ups are asked; prompts that have some are refused otherwise.

    Raises:
        UserError: bad input, found before weights are loaded; `out` made with other settings.
        SystemExit: on SIGTERM, SIGUSR1 or the stop file, after some steps of decoding; the same command goes on from there.
    """
    with stopping.ending_run(stop, f"what has been answered is in {settings.out}") as request:
        check_mode(settings)
        opened = settings.open()
        file = Answering(settings, opened, rolls_out)
        runtime.initialize(opened.parallel, settings.seed)
        answer_all([file], lambda: _load(settings, opened), request)


def answer_tasks(settings: InferenceSettings, stop: stopping.StopRequest | None = None) -> None:
    """Answer the prompts of all tasks, which `check_early` has written, with one model; every rank calls this.

    Raises as `answer_prompts` does.
    """
    with stopping.ending_run(stop, f"what has been answered is in {settings.out}") as request:
        opened = settings.open()
        runtime.initialize(opened.parallel, settings.seed)  # the first rank has written the prompts when it comes here
        files = settings_by_file(settings, opened.source)
        _check_same_prompts(files)
        answering = [Answering(one, opened, rolls_out=True, task=one.out.stem) for one in files if one.out]
        answer_all(answering, lambda: _load(settings, opened), request)


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
    verify_images(paths_of(requests))
    generator = _load(settings, opened)
    found = [item for batch in generator.stream(requests, sampling, progress=False) for item in sorted(batch.items())]
    return [candidate.text for _, candidates in sorted(found) for candidate in candidates]


def _load(settings: InferenceSettings, opened: OpenedModel) -> Generator:
    return opened.generator(settings.max_batch_tokens, settings.base, settings.cuda_graphs, settings.merge_adapters)


def _check_same_prompts(files: Sequence[InferenceSettings]) -> None:
    """Raise `UserError` where a rank reads other prompts than the first one has written: the folder is not shared."""
    here = [_hash(one.prompts) for one in files]
    for one, mine, first in zip(files, here, share(here), strict=True):
        if mine != first:
            raise UserError(f"{one.prompts}: is not what the first rank has written. Give an out that all nodes share.")


def _hash(path: Path | None) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else ""
