"""Prompts to answers: batches by length, images loaded ahead, replicas side by side, results on the first rank.

Shapes: N distinct images, K image occurrences, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy
import torch
from megatron.core import parallel_state
from tqdm import tqdm

from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.requests import (
    Assignment,
    EncodedPrompt,
    Request,
    check_lengths,
    make_requests,
    own_ways,
    plan_batches,
    raise_faults,
)
from nemo_mm_align.inference.rows import GeneratedAnswer
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.images import ImageProcessor, load_image
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Candidate, CandidateSet, Prompt

Answers = tuple[Candidate, ...]
Result = TypeVar("Result")


class Generator:
    """Answers prompts with a model in any layout; every rank makes one and calls it with the same arguments.

    Args:
        model: this rank's pipeline stage, built without sequence parallelism.
        encoder: tokenizer and template of the model, with the schema where attributes are asked for.
        image_processor: of the model's vision tower.
        max_batch_tokens: see `plan_batches`.
        graphs: see `generate_batch`.
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
        """Yield answers by index into `requests` as batches end: on rank 0 those of all replicas, elsewhere nothing.

        Args:
            done: indices not to answer; a batch of which only some are done is computed as a whole, so that a resumed
                run repeats the first one's numbers exactly.
        """
        replicas, replica = runtime.data_parallel_size(), runtime.data_parallel_rank()
        batches = plan_batches(requests, settings, self.max_batch_tokens, replicas)
        batches = [batch for batch in batches if not done.issuperset(batch)]
        rounds = -(-len(batches) // replicas)
        batches += [[]] * (rounds * replicas - len(batches))
        mine = batches[replica::replicas]
        total = settings.num_samples * sum(map(len, batches))
        with tqdm(total=total, desc="answers", disable=not progress or runtime.rank() != 0) as bar:
            for batch, images in self._with_images(requests, mine):
                before = bar.n
                answers = self._answer([requests[index].encoded for index in batch], images, settings, bar.update)
                gathered = gather(dict(zip(batch, answers, strict=True)))
                bar.update(settings.num_samples * len(gathered) - (bar.n - before))
                yield {index: answer for index, answer in gathered.items() if index not in done}

    def _answer(
        self,
        prompts: Sequence[EncodedPrompt],
        images: ImageBatch | None,
        settings: SamplingSettings,
        on_ended: Callable[[int], object],
    ) -> list[Answers]:
        if not prompts:
            return []
        generated = generate_batch(
            self.model, prompts, images, settings, self.stop_ids, on_ended, self.graphs, self.encoder.decode_whole
        )
        return [tuple(self.candidate(answer) for answer in answers) for answers in generated]

    def candidate(self, answer: GeneratedAnswer) -> Candidate:
        """Return an answer that has ended as text."""
        text = self.encoder.decode(answer.ids) if answer.text is None else answer.text.strip()
        assert answer.finish_reason != "abort"
        return Candidate(text=text, finish_reason=answer.finish_reason, num_tokens=len(answer.ids))

    def _with_images(
        self, requests: Sequence[Request], batches: Sequence[list[int]]
    ) -> Iterator[tuple[list[int], ImageBatch | None]]:
        """Load the images of the next batch while the model works on the present one."""

        def load(batch: list[int]) -> ImageBatch | None:
            return self.load([path for index in batch for path in requests[index].encoded.image_paths])

        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = [pool.submit(load, batch) for batch in batches[:1]]
            for place, batch in enumerate(batches):
                images = ahead.pop().result()
                ahead.extend(pool.submit(load, following) for following in batches[place + 1 : place + 2])
                yield batch, images

    def load(self, paths: Sequence[Path]) -> ImageBatch | None:
        """Read images, each once, where this rank's stage looks at them; None elsewhere, and where there are none."""
        if not paths or not self.model.pre_process:
            return None
        places = {path: place for place, path in enumerate(dict.fromkeys(paths))}
        pixels_NCHW = numpy.stack([self.image_processor(load_image(path)) for path in places])
        index_K = torch.tensor([places[path] for path in paths])
        return ImageBatch(torch.from_numpy(pixels_NCHW), index_K, tuple(map(str, places)))


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
