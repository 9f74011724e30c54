"""Decoding as a session: answers join (`admit`), go on together (`step`) and leave (`retire`), each with settings of its own.

Every rank of a model replica holds a session and makes the same calls with the same arguments: one rank chooses the tokens,
all of them learn what they are, and the rest follows from these. Where one rank alone knows what is asked, see
`LedSession`.

An answer depends on its request alone, up to rounding: not on what else is in the batch, nor on when it joined.

A session is no thread's: whoever serves several threads makes its calls from one of them, between steps.

Shapes: B slots, P prompts, S sequence, R rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Self

import torch

from nemo_mm_align.core.transfers import to_device
from nemo_mm_align.inference.growing_text import Decode
from nemo_mm_align.inference.image_features import IMAGE_BYTES
from nemo_mm_align.inference.prefill import ImageBatch, Prefill, Prompts
from nemo_mm_align.inference.prefixes import content_of
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer, Progress, Row, TokenLogprobs
from nemo_mm_align.inference.stage import DecodingStage
from nemo_mm_align.inference.steps import GraphedSteps, Steps
from nemo_mm_align.model.llava import Llava


class NoRoom(ValueError):
    """So many answers do not fit now; they will, once others have ended."""


class DecodingSession:
    """Answers on their way, in slots of a cache of fixed size; a context manager, within which the model evaluates.

    The cache takes its whole memory with the first prompt: slots x length x what a position's keys and values take in all
    layers of this stage. Answers are kept until they are retired.

    Args:
        model: this rank's pipeline stage, on its device, built without sequence parallelism.
        slots: answers at a time.
        length: positions of each, the prompt included.
        decode: token ids to text as it stands, not stripped; needed for requests with stop texts.
        graphs: step from CUDA graphs; ``None`` = where the model lies on one GPU.
        kept: prompts, with their answers, of which keys and values are kept to be gone on from: each as much memory as a slot.
        image_bytes: of embeddings of pictures that have names, kept on the first stage, so that these are encoded once.

    Raises:
        ValueError: the model has fewer positions.
    """

    def __init__(
        self,
        model: Llava,
        slots: int,
        length: int,
        decode: Decode | None = None,
        graphs: bool | None = None,
        kept: int = 0,
        image_bytes: int = IMAGE_BYTES,
    ) -> None:
        positions = model.model_config.language.max_position_embeddings
        if length > positions:
            raise ValueError(f"slots of {length} positions, and the model has {positions}")
        self._model, self._decode = model, decode
        self._stage = DecodingStage(model, slots, length, kept)
        on_gpu = next(model.parameters()).is_cuda
        kind = GraphedSteps if ((on_gpu and self._stage.is_whole) if graphs is None else graphs) else Steps
        self._steps = kind(self._stage)
        self._prefill = Prefill(self._stage, self._steps, image_bytes)
        self._slots: list[Row | None] = []
        self._waiting: deque[Prompts] = deque()
        self._queued: list[Row] = []  # with their first token; another answer to the same request lies in a slot
        self._rows: dict[int, Row] = {}
        self._count = self._unfinished = 0
        self._changed = False

    def __enter__(self) -> Self:
        self._training = self._model.training
        self._model.eval()
        return self

    def __exit__(self, *error: object) -> None:
        self._model.train(self._training)

    @property
    def slots(self) -> int:
        """Answers at a time."""
        return self._stage.slots

    @property
    def length(self) -> int:
        """Positions of each."""
        return self._stage.cache.length

    @property
    def room(self) -> int:
        """How many more rows can be admitted now."""
        return max(0, self.slots - self._unfinished)

    @property
    def reused(self) -> tuple[int, int]:
        """Positions of all prompts so far, and how many of these were kept (`kept`)."""
        return self._prefill.prefixes.asked, self._prefill.prefixes.found

    @property
    def pictures_reused(self) -> tuple[int, int]:
        """Pictures behind what was kept of prompts so far, and how many of these needed not be encoded; on the first stage."""
        features = self._prefill.features
        return (0, 0) if features is None else (features.asked, features.found)

    @property
    def lost(self) -> list[int]:
        """Answers whose prompts could not be computed, until they are retired."""
        return [number for number, row in self._rows.items() if row.finish_reason == "abort"]

    def cached(self, row: int) -> int:
        """Return how many positions of an answer's prompt needed not be computed; known once the answer has a token.

        Raises:
            KeyError: there is no such row, or it has been retired.
        """
        return self._rows[row].cached

    @property
    def busy(self) -> bool:
        """Whether some answer has not ended."""
        return self._unfinished > 0

    def admit(
        self, requests: Sequence[DecodingRequest], images: ImageBatch | None = None, may_wait: bool = False
    ) -> list[int]:
        """Take requests in; their prompts are computed together by the next step that has none before them.

        Args:
            requests: at least one.
            images: the prompts' images; read on the first stage only.
            may_wait: it is enough that one answer to each request finds a slot. The others get their first token with it, and
                go on in slots that become free, before anybody else: no prompt is computed twice.

        Returns:
            A number for each answer, request by request: what `step` and `retire` know it by.

        Raises:
            NoRoom: not as many slots are free.
            ValueError: requests that will never fit, or that the model cannot read. Nothing has been taken in.
        """
        answers = sum(request.sampling.num_samples for request in requests)
        for request in requests:
            self._check(request)
        self._check_images(requests, images)
        at_once = len(requests) if may_wait else answers
        if not 0 < at_once <= self.slots:
            raise ValueError(f"{at_once} answers asked for at once, of {self.slots} slots")
        if at_once > self.room:
            raise NoRoom(f"{at_once} answers asked for, and room for {self.room}")
        rows = []
        for prompt, request in enumerate(requests):
            for sample in range(request.sampling.num_samples):
                rows.append((Row(self._count, request, sample, self._decode), prompt))
                self._count += 1
        self._unfinished += answers
        self._rows.update({row.number: row for row, _ in rows})
        config = self._model.model_config
        self._waiting.append(Prompts(requests, rows, images, config.tokens_per_image, config.image_token_id))
        return [row.number for row, _ in rows]

    def _check(self, request: DecodingRequest) -> None:
        ids, vocabulary = request.prompt.ids, self._model.model_config.language.vocab_size
        if not ids or min(ids) < 0 or max(ids) >= vocabulary:
            raise ValueError(f"prompt {request.prompt.id!r} is empty, or has tokens that the model does not know")
        if request.length > self.length:
            raise ValueError(
                f"prompt {request.prompt.id!r}: {request.length} positions, and room for {self.length} each"
            )
        if request.top_logprobs is not None and not 0 <= request.top_logprobs < vocabulary:  # all but the image token
            raise ValueError(f"log-probabilities of {request.top_logprobs} tokens asked for, of 0 to {vocabulary - 1}")
        if request.sampling.stop and self._decode is None:
            raise ValueError("stop texts take a session that can decode")

    def _check_images(self, requests: Sequence[DecodingRequest], images: ImageBatch | None) -> None:
        """On the stage that reads them: as many as the prompts have places for."""
        if not self._model.pre_process:
            return
        config = self._model.model_config
        tokens = sum(request.prompt.ids.count(config.image_token_id) for request in requests)
        given = 0 if images is None else len(images.index_K)
        if tokens != given * config.tokens_per_image:
            raise ValueError(f"{tokens} image tokens, and {given} images of {config.tokens_per_image} each")
        size = (3, config.vision.image_size, config.vision.image_size)
        if images is not None and tuple(images.pixels_NCHW.shape[1:]) != size:
            raise ValueError(f"images of {tuple(images.pixels_NCHW.shape[1:])}, and the model takes {size}")
        if images is not None and not 0 <= int(images.index_K.min()) <= int(images.index_K.max()) < len(
            images.pixels_NCHW
        ):
            raise ValueError("an image is named that is not there")

    def retire(self, row: int) -> GeneratedAnswer:
        """Forget an answer and return what there is of it; its slot is free, if it was not before.

        Raises:
            KeyError: there is no such row, or it has been retired.
        """
        found = self._rows.pop(row)
        if found.finish_reason is None:
            found.finish_reason = "abort"
            self._unfinished -= 1
        self._queued = [other for other in self._queued if other is not found]
        self._slots = [self._next_in_place_of(other) for other in self._slots]
        return found.answer()

    @torch.inference_mode()
    def step(self) -> list[Progress]:
        """Compute what was admitted first, or else one more token of every row; return what has become of them.

        Nothing is returned where no answer is on its way. Where prompts cannot be computed, their answers end as given up, the
        error is raised, and the others can go on.
        """
        self._seat()
        while self._waiting:
            prompts = self._waiting.popleft().wanted
            if prompts is not None:
                now, later = self._prefill.split(prompts)
                if later is not None:
                    self._waiting.appendleft(later)
                return self._compute(now)
        self._compact()
        if not any(self._slots):
            return []
        if self._changed:
            self._steps.load(self._slots)
            self._changed = False
        tokens = self._steps.next(self._slots).tokens(self._slots)
        return self._append([(row, *token) for row, token in zip(self._slots, tokens, strict=True) if row])

    def _append(self, tokens: Sequence[tuple[Row, int, TokenLogprobs | None]]) -> list[Progress]:
        progress = [row.append(token, logprobs) for row, token, logprobs in tokens]
        self._unfinished -= sum(one.finish_reason is not None for one in progress)
        if self._prefill.prefixes:
            self._keep_ended()
        self._queued = [row for row in self._queued if row.finish_reason is None]
        self._slots = [self._next_in_place_of(row) for row in self._slots]
        return progress

    def _next_in_place_of(self, row: Row | None) -> Row | None:
        """Return who lies in a slot now: once a row has ended, another answer to its request, whose prompt is there already."""
        if row is None or row.finish_reason is None:
            return row
        found = next((other for other in self._queued if other.request is row.request), None)
        if found is not None:
            self._queued = [other for other in self._queued if other is not found]
            self._changed = True
        return found

    def _seat(self) -> None:
        """Give free slots to answers that wait for one, with the prompt's keys and values of another answer to their request."""
        free = self._free()
        seated, self._queued = self._queued[: len(free)], self._queued[len(free) :]
        if not seated:
            return
        lies_in = {id(row.request): slot for slot, row in enumerate(self._slots) if row}
        sources = [lies_in[id(row.request)] for row in seated]
        self._prefill.copy(sources, free[: len(seated)], max(len(row.request.prompt.ids) for row in seated))
        self._place(dict(zip(free, seated, strict=False)))

    def _free(self) -> list[int]:
        """Slots that nobody lies in and that no prompt needs which is still to be computed."""
        free = [slot for slot, row in enumerate(self._slots) if row is None]
        free += range(len(self._slots), self._stage.slots)
        needed = sum(prompts.unanswered for prompts in self._waiting)
        return free[: max(0, len(free) - needed)]

    def _place(self, rows: Mapping[int, Row]) -> None:
        """Let rows go on in these slots."""
        self._slots += [None] * (self._steps.width(max(rows) + 1) - len(self._slots))
        for slot, row in rows.items():
            self._slots[slot] = row
        self._changed = True

    def _keep_ended(self) -> None:
        """Keep prompts with their answers, as the next turn of a conversation begins with them; not of one of several answers."""
        for slot, row in enumerate(self._slots):
            if row is not None and row.finish_reason and row.request.sampling.num_samples == 1:
                config = self._model.model_config
                content = content_of(row.request, config.image_token_id, config.tokens_per_image)
                if len(content) == len(row.request.prompt.ids):
                    self._prefill.keep(
                        content.followed_by(row.ids[:-1]), slot
                    )  # the newest token has not been computed

    def _compute(self, prompts: Prompts) -> list[Progress]:
        """Compute prompts into free slots; return the first token of each answer."""
        rows, firsts, free = [row for row, _ in prompts.rows], prompts.first_rows, self._free()
        order = sorted(
            range(len(rows)), key=lambda place: place not in firsts
        )  # one answer to each prompt before all others
        taken = dict(zip(sorted(order[: len(free)]), free, strict=False))
        slots = [taken.get(place, taken[firsts[prompt]]) for place, (_, prompt) in enumerate(prompts.rows)]
        try:
            tokens = self._prefill.compute(prompts, slots)
        except Exception:
            for row in rows:
                row.finish_reason = "abort"
            self._unfinished -= len(rows)
            raise
        self._place({slot: rows[place] for place, slot in taken.items()})
        self._queued += [row for place, row in enumerate(rows) if place not in taken]
        return self._append([(row, *token) for row, token in zip(rows, tokens, strict=True)])

    def _compact(self) -> None:
        """Move rows to the first slots once few of the slots are taken, so that a step computes few."""
        taken = [slot for slot, row in enumerate(self._slots) if row]
        width = self._steps.width(len(taken))
        if width == len(self._slots) or width > self._steps.compact_below * len(self._slots):
            return
        holes = [slot for slot in range(width) if self._slots[slot] is None]
        movers = [slot for slot in taken if slot >= width]
        holes = holes[: len(movers)]
        if movers:
            length = max(row.column for row in (self._slots[slot] for slot in movers) if row)
            device = self._steps.device
            self._stage.cache.move(
                to_device(torch.tensor(movers), device), to_device(torch.tensor(holes), device), length
            )
            for source, target in zip(movers, holes, strict=True):
                self._slots[target] = self._slots[source]
        self._slots = self._slots[:width]
        self._changed = True
