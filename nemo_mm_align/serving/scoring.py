"""Scores beside answers: what another server's attribute model, or the miniature's oracle, tells of a conversation.

`ServedScorer` asks as NVIDIA NIM's reward models are asked, which is also how an attribute model is served here.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any, Literal, Protocol

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.clients.api_key import conceal, shows_key
from nemo_mm_align.llm.clients.endpoint import Endpoint
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.messages import Conversation
from nemo_mm_align.serving.pictures import PictureStore
from nemo_mm_align.serving.scorer_settings import ScorerSettings, scorer_key

log = logging.getLogger(__name__)

Scores = dict[str, float]


class Scorer(Protocol):
    """Who tells scores of the last answer of a conversation."""

    def scores(self, messages: Any, conversation: Conversation, pictures: PictureStore) -> Scores:
        """Return a number by attribute.

        Args:
            messages: as they came.
            conversation: the same, read and checked; its last turn is the assistant's.
            pictures: reads those that it shows.

        Raises:
            ApiError: it cannot be told; the message says why.
        """


def make_scorer(settings: Literal["oracle"] | ScorerSettings) -> Scorer:
    """Return who tells scores; raise `UserError` where there is no key."""
    return OracleScorer() if settings == "oracle" else ServedScorer(settings)


class OracleScorer:
    """The rules of the miniature, for its own pictures and wordings; see `miniature.oracle`."""

    def scores(self, messages: Any, conversation: Conversation, pictures: PictureStore) -> Scores:
        """Rate the last answer by the picture that was shown last; see `Scorer`."""
        from nemo_mm_align.miniature.oracle import rate  # needs easy-VQA, which other scorers do not
        from nemo_mm_align.miniature.reading import read_truth

        *_, asked, answer = conversation.turns
        image = pictures.image(conversation.pictures[-1]) if conversation.pictures else None
        try:
            truth = read_truth(asked.content.replace(IMAGE_PLACEHOLDER, "").strip(), image)
        except UserError as error:
            raise ApiError(422, str(error), "messages", "cannot_be_scored") from None
        return {name: float(value) for name, value in rate(answer.content, truth).items()}


class ServedScorer:
    """An attribute model behind ``POST <url>/chat/completions``; safe for threads.

    Args:
        settings: where it is, and its key's variable.

    Raises:
        UserError: no key in the variable.
    """

    def __init__(self, settings: ScorerSettings) -> None:
        self._model, self._key = settings.model, scorer_key(settings)
        self._endpoint = Endpoint(f"{settings.url}/chat/completions", self._key, settings.timeout_s)

    def scores(self, messages: Any, conversation: Conversation, pictures: PictureStore) -> Scores:
        """Ask once; see `Scorer`."""
        try:
            return self._asked(messages)
        except CallFailure as failure:
            message = conceal(failure, self._key).message.replace("judge.", "scorer.")
            log.warning("no scores: %s", message)
            raise ApiError(502, f"the scorer gave no scores: {message}", code="scorer_failed") from None

    def _asked(self, messages: Any) -> Scores:
        body = {"model": self._model, "messages": messages, "stream": False}
        text = self._endpoint.post(body)
        if shows_key(text, self._key):
            raise CallFailure("server", "the reply repeats the API key and is not used")
        return read_scores(text)


def read_scores(text: str) -> Scores:
    """Return the pairs in a reward model's chat completion: of its content, else of its log-probs.

    NVIDIA's hosted model wraps the message into a list.

    Raises:
        CallFailure: there are none.
    """
    try:
        choice = json.loads(text)["choices"][0]
        message = choice["message"]
        content = (message[0] if isinstance(message, list) else message).get("content")
        found = _pairs(content) or {one["token"]: float(one["logprob"]) for one in choice["logprobs"]["content"]}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        found = {}
    if not found or not all(map(math.isfinite, found.values())):
        raise CallFailure("server", f"the reply is no reward model's (name:number,name:number): {text[:200]}", text)
    return found


def _pairs(content: Any) -> Scores:
    """``helpfulness:3.2,correctness:1`` as a dictionary; empty for anything else."""
    found = {}
    for pair in content.split(",") if isinstance(content, str) else ():
        name, colon, value = pair.strip().rpartition(":")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            return {}
        if not colon or not name.strip():
            return {}
    return found
