"""A model of our own as a judge: one that was trained to tell the attributes of answers. It asks nobody and costs nothing.

scripts/annotate.py rates a whole file faster, in batches and on several ranks; this is the same model wherever a judge is asked.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest
from nemo_mm_align.llm.clients.question_images import read_checked
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import QuestionImage
from nemo_mm_align.model.config import ParallelConfig, Precision
from nemo_mm_align.schema.attributes import AttributeSchema

if TYPE_CHECKING:
    from nemo_mm_align.datasets.sample import Sample
    from nemo_mm_align.inference.loading import OpenedModel
    from nemo_mm_align.inference.rating import Rater

log = logging.getLogger(__name__)

NAME = "attribute_model"
"""What annotations name such a judge by, whoever wrote them."""


class AttributeModelJudge:
    """Rates candidates with a model's head, one prompt at a time; the model is loaded at the first call.

    Args:
        checkpoint: a checkpoint with a head, a run's folder, or an exported attribute model.
        schema: the attributes to score; they have to be those that the model tells.
        base: where the base of a LoRA checkpoint lies now, if it was moved.
        precision: ``auto`` is bf16 on a GPU and fp32 on a CPU.

    Raises:
        UserError: no such model, one without a head, or one that tells other attributes than `schema`.
    """

    name = NAME
    reads_metadata = False
    price = None
    max_output_tokens = 0
    one_process = True

    def __init__(
        self,
        checkpoint: str,
        schema: AttributeSchema,
        base: str | None = None,
        precision: Literal["auto"] | Precision = "auto",
    ) -> None:
        from nemo_mm_align.inference.early import check_model

        self._checkpoint, self._base, self._precision = checkpoint, base, precision
        source, _ = check_model(checkpoint, ParallelConfig(), precision, None, rates=True)
        told = source.schema_told()
        if told.judged() != schema.judged():
            raise UserError(
                f"judge.checkpoint={checkpoint}: tells the attributes of the schema {told.name}, but attribute_schema="
                f"{schema.name} is another one. Set attribute_schema to the one that it was trained with."
            )
        self._lock = threading.Lock()

    @functools.cached_property
    def _opened(self) -> OpenedModel:
        from nemo_mm_align.inference.loading import open_for_inference

        return open_for_inference(self._checkpoint, ParallelConfig(), self._precision, rates=True)

    @functools.cached_property
    def settings(self) -> Mapping[str, Any]:
        """Weights, head, template, tokenizer and image processor; as scripts/annotate.py notes them."""
        from nemo_mm_align.inference.identity import rating_facts

        return rating_facts(self._opened)

    @functools.cached_property
    def _rater(self) -> Rater:
        from nemo_mm_align.parallel import runtime

        log.info("loading %s", self._checkpoint)
        runtime.initialize(ParallelConfig(), seed=0)
        atexit.register(runtime.shutdown)
        return self._opened.rater(max_batch_tokens=1, base=None if self._base is None else Path(self._base))

    def judge(self, request: JudgeRequest) -> JudgeReply:
        """Rate all candidates of a prompt in one row; calls wait for each other."""
        from nemo_mm_align.inference.scores import predicted, scores

        with self._lock:
            outputs_AT = self._outputs(self._sample(request))
        told = [predicted(request.schema, outputs_T) for outputs_T in outputs_AT]
        ratings = tuple(scores(request.schema, values) for values in told)
        return JudgeReply(ratings, ("",) * len(ratings), raw=json.dumps(told))

    def _sample(self, request: JudgeRequest) -> Sample:
        """The candidates as the model reads them; raise `CallFailure` where it cannot, or a picture has changed."""
        from nemo_mm_align.datasets.sample import Sample

        try:
            encoder = self._opened.encoder
            sequences = encoder.encode_answers(request.prompt.turns, request.candidates, may_be_empty=True)
        except UserError as error:
            raise CallFailure("bad_request", str(error)) from None
        longest, positions = max(map(len, sequences)), self._opened.source.config.language.max_position_embeddings
        if longest > positions:
            raise CallFailure("bad_request", f"a candidate of {longest} tokens; the model has {positions} positions")
        for path, checked in zip(request.image_paths, request.image_hashes, strict=False):
            read_checked(QuestionImage(path, checked))
        return Sample(request.prompt.id, list(request.image_paths), sequences)

    def _outputs(self, sample: Sample) -> list[list[float]]:
        from nemo_mm_align.inference.rating import rate_answers

        (outputs_AT,) = rate_answers(self._rater, [sample], progress=False)
        values: list[list[float]] = outputs_AT.tolist()
        return values
