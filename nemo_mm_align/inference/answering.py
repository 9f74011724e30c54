"""One file of prompts on its way to its file of answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from nemo_mm_align.core.run_files import write_layout
from nemo_mm_align.inference.answer_file import AnswerFile
from nemo_mm_align.inference.asking import sort_requests
from nemo_mm_align.inference.generator import Generator
from nemo_mm_align.inference.identity import identity
from nemo_mm_align.inference.image_check import verify_images
from nemo_mm_align.inference.loading import OpenedModel
from nemo_mm_align.inference.pictures import Pictures
from nemo_mm_align.inference.requests import Key, Request, make_requests
from nemo_mm_align.inference.settings import InferenceSettings
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.first_rank import open_on_first_rank, share
from nemo_mm_align.parallel.stopping import StopRequest
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.schema.records import CandidateSet, prompt_kind, read_records

logger = logging.getLogger(__name__)


class Answering:
    """Answers every prompt of a file that its file of answers lacks; every rank has one and makes the same calls.

    Args:
        settings: with `prompts` and `out`.
        opened: the model's folder.
        rolls_out: whether follow-ups are asked.
        task: whose prompts these are, if a task's; None: a user's file.

    Raises:
        UserError: prompts that cannot be read, encoded or answered so; the message names them.
    """

    def __init__(
        self, settings: InferenceSettings, opened: OpenedModel, rolls_out: bool = False, task: str | None = None
    ) -> None:
        assert settings.prompts is not None and settings.out is not None
        self._settings, self._opened = settings, opened
        self.prompts, self.out = settings.prompts, settings.out
        self._drawn = settings.drawn(opened.schema)
        self.requests = make_requests(
            read_records(self.prompts, prompt_kind(settings.add_image_placeholders)),
            opened.encoder,
            settings.assignments(opened.schema),
            self._resolve,
            self._drawn.of if self._drawn else None,
        )
        self._asking = sort_requests(self.requests, settings.sampling, rolls_out)
        self._asking.check(opened.encoder, opened.source.config.language.max_position_embeddings, task)
        self._file: AnswerFile[CandidateSet] | None = None
        self.done: frozenset[int] = frozenset()

    def _resolve(self, path: str) -> Path:
        return resolve_image(path, self.prompts, self._settings.image_root)

    def _places(self, known: Collection[Key]) -> frozenset[int]:
        return frozenset(place for place, request in enumerate(self.requests) if request.key in known)

    @property
    def complete(self) -> bool:
        """Whether all answers were there when the file was opened."""
        return len(self.done) == len(self.requests)

    def open(self) -> None:
        """Open the file of answers on the first rank, and look at the pictures of what it lacks; process groups must be up.

        Raises:
            UserError: it holds answers made otherwise, or a picture is broken.
        """
        pictures = Pictures(self.out, self.requests)
        facts = self._settings, self._opened, self.prompts, self._drawn
        self._file = open_on_first_rank(lambda: AnswerFile(self.out, identity(*facts), pictures))
        self.done = share(None if self._file is None else self._places(self._file.sets))
        missing = [request for place, request in enumerate(self.requests) if place not in self.done]
        if missing:
            verify_images(paths_of(missing))
            if self._file is not None:
                pictures.read(request.key for request in missing)

    def answer(self, generator: Generator, stop: StopRequest) -> None:
        """Answer what is missing; raise `Stopped` on all ranks where any was asked to stop."""
        for sets in self._asking.stream(generator, self._resolve, self.done):
            for answered in sets:
                assert self._file is not None
                self._file.append(answered)
            stop.check()

    def finish(self) -> None:
        """Put the complete file into the order of the prompts."""
        if self._file is not None:
            self._file.finish([request.key for request in self.requests])
            write_layout(self.out, runtime.layout())
            counts = len(self.requests), len(self.done)
            logger.info("%s: answers to %d requests, %d of them from before", self.out, *counts)

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()
            self._file = None


def answer_all(files: Iterable[Answering], load: Callable[[], Generator], stop: StopRequest) -> None:
    """Answer several files with one model, whose weights are loaded where something is missing, once all files are checked."""
    generator: Generator | None = None
    with ExitStack() as stack:
        opened = list(files)
        for file in opened:
            stack.callback(file.close)
            file.open()
        for file in opened:
            if not file.complete:
                stop.check()
                generator = generator or load()
                file.answer(generator, stop)
            file.finish()


def paths_of(requests: Iterable[Request]) -> Iterator[Path]:
    """Return the pictures of requests."""
    return (path for request in requests for path in request.encoded.image_paths)
