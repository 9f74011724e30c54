"""How each request of a run is answered: by the run's settings or its prompt's own, once or as a dialogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.generator import Answers, Generator, candidate_set
from nemo_mm_align.inference.own_decoding import limit_key
from nemo_mm_align.inference.refill import Job
from nemo_mm_align.inference.requests import Request, length_faults, length_remedy, raise_faults
from nemo_mm_align.inference.rollout import Dialogue, RolledOut, check_dialogues, dialogue_jobs, warn_of_faults
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.schema.follow_ups import follow_ups_fault
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Candidate, CandidateSet


@dataclass(frozen=True)
class Asking:
    """The requests of a run, sorted by how they are answered.

    Attributes:
        requests: all, in the order of the prompts.
        questions: by what settings those are answered that are asked one question, by their places in `requests`.
        dialogues: those with follow-ups, by their places.
    """

    requests: Sequence[Request]
    questions: Mapping[int, SamplingSettings]
    dialogues: Mapping[int, Dialogue]

    def check(self, encoder: Encoder, max_positions: int, task: str | None = None) -> None:
        """Raise `UserError` naming what leaves no room for its answers, and the setting that bounds them.

        Args:
            task: whose prompts these are; None: a user's file.
        """
        too_long = {
            place: faults[0]
            for place, sampling in self.questions.items()
            if (faults := length_faults([self.requests[place]], sampling.max_new_tokens, max_positions))
        }
        remedy = length_remedy(max_positions, self._limits(too_long, task))
        raise_faults(list(dict.fromkeys(too_long.values())), remedy)
        limits = self._limits(self.dialogues, task)
        check_dialogues(list(self.dialogues.values()), encoder, max_positions, limits)

    def _limits(self, places: Iterable[int], task: str | None) -> str:
        """The settings that bound the answers."""
        return " and ".join(dict.fromkeys(limit_key(self.requests[place].prompt, task) for place in places))

    def stream(
        self, generator: Generator, resolve: Callable[[str], Path], done: frozenset[int]
    ) -> Iterator[list[CandidateSet]]:
        """Yield answers as they end: on rank 0 those of all replicas, elsewhere nothing; every rank goes through all.

        Args:
            generator: of the model.
            resolve: maps a record's image path to the file.
            done: places of the requests that are answered already.
        """
        questions = [
            generator.question(place, self.requests[place], sampling)
            for place, sampling in self.questions.items()
            if place not in done
        ]
        dialogues = {place: dialogue for place, dialogue in self.dialogues.items() if place not in done}
        jobs: list[Job[Any]] = [*questions, *dialogue_jobs(generator, dialogues, resolve)]
        for ended in generator.run(jobs):
            warn_of_faults(found for found in ended.values() if isinstance(found, RolledOut))
            yield [self._answered(place, found) for place, found in ended.items()]

    def _answered(self, place: int, found: Answers | RolledOut) -> CandidateSet:
        if isinstance(found, RolledOut):
            return candidate_set(
                self.requests[place], (Candidate.dialogue(found.answers),), self.dialogues[place].sampling
            )
        return candidate_set(self.requests[place], found, self.questions[place])


def sort_requests(requests: Sequence[Request], sampling: SamplingSettings, rolls_out: bool = False) -> Asking:
    """Return how each request is to be answered.

    Args:
        requests: of a run.
        sampling: the run's settings, of which a prompt's `decoding` takes the place in part.
        rolls_out: whether follow-ups are asked.

    Raises:
        UserError: settings of a prompt that contradict the run's, follow-ups of a run that asks none or wants several answers
            to each prompt; the message names the prompts.
    """
    questions: dict[int, SamplingSettings] = {}
    dialogues: dict[int, Dialogue] = {}
    faults = []
    for place, request in enumerate(requests):
        prompt = request.prompt
        try:
            own = sampling_of(request, sampling)
            if not prompt.follow_ups:
                questions[place] = own
            elif not rolls_out:
                raise UserError(follow_ups_fault("sample"))
            else:
                dialogues[place] = Dialogue(prompt, prompt.follow_ups, own, request.attributes)
        except UserError as error:
            faults.append(f"prompt {prompt.id!r}: {error}")
    raise_faults(list(dict.fromkeys(faults)), "Correct or remove these prompts.")
    return Asking(requests, questions, dialogues)


def sampling_of(request: Request, sampling: SamplingSettings) -> SamplingSettings:
    """Return the run's settings, with what the prompt says itself in their place; `UserError` where these do not go together."""
    decoding = request.prompt.decoding
    own = {} if decoding is None else decoding.model_dump(exclude_none=True)
    return replace(sampling, **own) if own else sampling
