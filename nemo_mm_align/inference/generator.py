"""Prompts to answers: rows refilled as they end, images read ahead, replicas side by side, results on the first rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from megatron.core import parallel_state
from tqdm import tqdm

from nemo_mm_align.inference.images_ahead import ImagesAhead
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.refill import Job, Refill, plan_groups
from nemo_mm_align.inference.requests import (
    Assignment,
    Request,
    check_lengths,
    make_requests,
    own_ways,
    raise_faults,
)
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Candidate, CandidateSet, Prompt

Answers = tuple[Candidate, ...]
Result = TypeVar("Result")

STEPS = 32
"""Of decoding, after which the replicas bring together what has ended: what a killed run loses at most."""


class Generator:
    """Answers prompts with a model in any layout; every rank makes one and calls it with the same arguments.

    Args:
        model: this rank's pipeline stage, built without sequence parallelism.
        encoder: tokenizer and template of the model, with the schema where attributes are asked for.
        image_processor: of the model's vision tower.
        max_batch_tokens: positions of the cache, see `plan_groups`.
        graphs: see `DecodingSession`.
    """

    def __init__(
        self,
        model: Llava,
        encoder: Encoder,
        image_processor: ImageProcessor,
        max_batch_tokens: int = 32768,
        graphs: bool | None = None,
    ) -> None:
        self.model, self.encoder, self.image_processor = model, encoder, image_processor
        self.max_batch_tokens, self.graphs = max_batch_tokens, graphs
        eos = encoder.tokenizer.eos_token_id
        self.stop_ids = sorted({encoder.stop_id, *([] if eos is None else [int(eos)])})

    def generate(
        self,
        prompts: Iterable[Prompt],
        settings: SamplingSettings,
        assignments: Sequence[Assignment] = (None,),
        resolve: Callable[[str], Path] = Path,
        progress: bool = True,
    ) -> list[CandidateSet]:
        """Answer every prompt under every assignment of attributes.

        Args:
            prompts: with distinct ids.
            settings: sampling settings.
            assignments: attribute values to ask for; missing ones take the schema's defaults, None asks for nothing.
            resolve: maps a record's image path to the file.
            progress: show a bar on the first rank.

        Returns:
            One set per prompt and assignment, in that order, on rank 0; an empty list elsewhere.

        Raises:
            UserError: prompts that cannot be encoded or do not fit, or that are to be answered in a way of their own
                (`asking`); images that cannot be read.
        """
        prompts = list(prompts)
        raise_faults(own_ways(prompts), "Take these out: all prompts are answered once here, by the same settings.")
        requests = make_requests(prompts, self.encoder, assignments, resolve)
        check_lengths(requests, settings.max_new_tokens, self.model.model_config.language.max_position_embeddings)
        found: dict[int, Answers] = {}
        for batch in self.stream(requests, settings, progress=progress):
            found.update(batch)
        return [candidate_set(requests[index], found[index], settings) for index in sorted(found)]

    def stream(
        self,
        requests: Sequence[Request],
        settings: SamplingSettings,
        done: frozenset[int] = frozenset(),
        progress: bool = True,
    ) -> Iterator[dict[int, Answers]]:
        """Yield answers by index into `requests` as they end, as `run` does.

        Args:
            done: indices not to answer.
        """
        jobs = [self.question(place, one, settings) for place, one in enumerate(requests) if place not in done]
        yield from self.run(jobs, progress)

    def question(self, place: int, request: Request, sampling: SamplingSettings) -> Job[Answers]:
        """Return a request as what `run` takes."""
        return Question(place, DecodingRequest(request.encoded, sampling, frozenset(self.stop_ids)), self)

    def run(self, jobs: Sequence[Job[Result]], progress: bool = True) -> Iterator[dict[int, Result]]:
        """Yield what jobs have come to as they end, by their places: on rank 0 those of all replicas, elsewhere nothing.

        Between two steps of this iterator every rank has made as many steps of decoding; all ranks must go through it to its end.

        Args:
            jobs: the same on all ranks.
            progress: show a bar on the first rank.
        """
        answers = {job.place: job.answers for job in jobs}
        with (
            tqdm(total=sum(answers.values()), desc="answers", disable=not progress or runtime.rank() != 0) as bar,
            ImagesAhead(self.image_processor, self.model.pre_process) as images,
            Refill(self._mine(jobs), self._session, self.max_batch_tokens, images) as refill,
        ):
            while anywhere(refill.busy):
                ended = gather({job.place: job.result for job in refill.advance(STEPS)})
                bar.update(sum(answers[place] for place in ended))
                yield ended

    def _mine(self, jobs: Sequence[Job[Result]]) -> list[list[Job[Result]]]:
        """Groups of this replica's jobs: each group's are dealt out in turn, none is empty."""
        replicas, replica = runtime.data_parallel_size(), runtime.data_parallel_rank()
        lengths, rows = [job.length for job in jobs], [job.samples for job in jobs]
        groups = plan_groups(lengths, rows, self.max_batch_tokens, replicas)
        return [[jobs[place] for place in mine] for group in groups if (mine := group[replica::replicas])]

    def _session(self, slots: int, length: int) -> DecodingSession:
        return DecodingSession(self.model, slots, length, self.encoder.decode_whole, self.graphs)

    def candidate(self, answer: GeneratedAnswer) -> Candidate:
        """Return an answer that has ended as text."""
        text = self.encoder.decode(answer.ids) if answer.text is None else answer.text.strip()
        assert answer.finish_reason != "abort"
        return Candidate(text=text, finish_reason=answer.finish_reason, num_tokens=len(answer.ids))

    def load(self, paths: Sequence[Path]) -> ImageBatch | None:
        """Read images, each once, where this rank's stage looks at them; None elsewhere, and where there are none."""
        with ImagesAhead(self.image_processor, self.model.pre_process) as images:
            return images.batch(paths)


class Question(Job[Answers]):
    """A question that is answered once, by as many answers as its settings ask for."""

    def __init__(self, place: int, asked: DecodingRequest, generator: Generator) -> None:
        self.place, self.samples, self.answers = place, asked.sampling.num_samples, asked.sampling.num_samples
        self.length, self.pictures = asked.length, asked.prompt.image_paths
        self._asked, self._generator = asked, generator

    def ask(self) -> DecodingRequest:
        """See `Job.ask`."""
        return self._asked

    def take(self, answers: Sequence[GeneratedAnswer]) -> bool:
        """See `Job.take`."""
        self._answers = tuple(map(self._generator.candidate, answers))
        return False

    @property
    def result(self) -> Answers:
        """The answers."""
        return self._answers


def candidate_set(request: Request, answers: Answers, settings: SamplingSettings) -> CandidateSet:
    """The record of one request's answers, with how they were made."""
    asked = {} if request.attributes is None else {"attributes": request.attributes}
    return CandidateSet(prompt_id=request.prompt_id, candidates=answers, sampling={**settings.to_dict(), **asked})


def gather(answers: dict[int, Result]) -> dict[int, Result]:
    """Bring what the replicas have to rank 0; empty elsewhere."""
    if parallel_state.get_tensor_model_parallel_rank() or parallel_state.get_pipeline_model_parallel_rank():
        return {}
    if runtime.data_parallel_size() == 1:
        return answers
    parts: list[dict[int, Result] | None] | None = None
    if runtime.rank() == 0:
        parts = [None] * runtime.data_parallel_size()
    torch.distributed.gather_object(answers, parts, 0, group=parallel_state.get_data_parallel_group())
    return {index: answer for part in parts or [] if part for index, answer in part.items()}


def anywhere(here: bool) -> bool:
    """Whether something holds on any rank; all ranks call this."""
    flag = torch.tensor(float(here), device=runtime.device())
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag)
