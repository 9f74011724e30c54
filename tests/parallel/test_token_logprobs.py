"""Log-probabilities of rows that join and leave, each asking for its own number of tokens; in float64.

Other layouts, and transformers' numbers: test_decoding.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nemo_mm_align.inference import steps, token_logprobs
from nemo_mm_align.inference.rows import DecodingRequest, TokenLogprobs
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.model.llava import Llava
from tests.gpu import cpu_parity_worker as small
from tests.parallel import test_decoding_session as sessions
from tests.parallel.test_decoding_session import LENGTH, model

__all__ = ["model"]
pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]

ASKED = [None, 0, 3, None, 20]
VOCABULARY = small.CONFIG.language.vocab_size


def tell(session: DecodingSession, asked: list[DecodingRequest]) -> list[list[list[TokenLogprobs | None]]]:
    """What is told of every token of every answer; requests join one at a time."""
    waiting, told, rows = list(asked), {}, []
    while waiting or session.busy:
        if waiting and session.room >= waiting[0].sampling.num_samples:
            rows.append(session.admit(waiting[:1], sessions.images_of(waiting[:1])))
            waiting.pop(0)
        for progress in session.step():
            told.setdefault(progress.row, []).append(progress.logprobs)
            assert progress.logprobs is None or progress.token in (None, progress.logprobs.token)
    return [[told[row] for row in numbers] for numbers in rows]


@torch.no_grad()
def expected(model: Llava, request: DecodingRequest, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of a pass over prompt and answer, [tokens, V]."""
    ids = torch.tensor([[*request.prompt.ids, *tokens[:-1]]])
    images = sessions.images_of([request])
    pixels = (images.pixels_NCHW, images.index_K) if images else ()
    logits_1SV = model.logits(model(ids, torch.arange(ids.shape[1]).unsqueeze(0), None, *pixels))
    logits_1SV[..., small.CONFIG.image_token_id] = float("-inf")
    return logits_1SV[0, len(request.prompt.ids) - 1 :].log_softmax(dim=-1)


@pytest.mark.parametrize("graphs", [False, True])
def test_each_row_is_told_what_it_asks_for(model: Llava, graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_WINDOW", 16)
    asked = [replace(one, top_logprobs=ASKED[place % len(ASKED)]) for place, one in enumerate(sessions.requests(15))]
    with DecodingSession(model, 5, LENGTH, graphs=graphs) as session:
        found = tell(session, asked)
    compared = 0
    for request, answers in zip(asked, found, strict=True):
        for told in answers:
            if request.top_logprobs is None:
                assert set(told) == {None}
                continue
            values_SV = expected(model.eval(), request, [one.token for one in told])
            assert len(values_SV) == len(told)
            for one, values_V in zip(told, values_SV, strict=True):
                assert one.logprob == pytest.approx(float(values_V[one.token]), abs=1e-10)
                best = values_V.topk(request.top_logprobs)
                assert [token for token, _ in one.top] == best.indices.tolist()
                assert [value for _, value in one.top] == pytest.approx(best.values.tolist(), abs=1e-10)
                compared += 1
    assert compared > 100


def test_all_tokens_but_the_image_token_make_one(model: Llava) -> None:
    request = replace(sessions.requests(2)[1], top_logprobs=VOCABULARY - 1)
    with DecodingSession(model, 2, LENGTH) as session:
        for one in (told for answers in tell(session, [request]) for answer in answers for told in answer):
            assert sorted(token for token, _ in one.top) == list(range(VOCABULARY - 1))
            assert torch.tensor([value for _, value in one.top]).exp().sum() == pytest.approx(1, abs=1e-12)
        for wrong in (-1, VOCABULARY):
            with pytest.raises(ValueError, match="0 to 514"):
                session.admit([replace(request, top_logprobs=wrong)])


def test_nothing_is_computed_where_nobody_asks(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, compute = [], token_logprobs.tell
    monkeypatch.setattr(steps, "_WINDOW", 8)
    monkeypatch.setattr(steps, "tell", lambda *arguments: (calls.append(1), compute(*arguments)))
    asked = [one for one in sessions.requests() if one.sampling.num_samples == 1]
    with DecodingSession(model, 4, LENGTH, graphs=True) as session:
        tell(session, asked)
        assert not calls
        tell(session, [replace(asked[0], top_logprobs=2)])
        assert len(calls) == 14, "a token each"
        calls.clear()
        tell(session, [replace(asked[0], sampling=replace(asked[0].sampling, max_new_tokens=34))])
        assert len(calls) == 40 - len(asked[0].prompt.ids), (
            "the window before ends at 40; its prompt's token told nothing"
        )
