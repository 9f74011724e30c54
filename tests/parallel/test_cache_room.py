"""The memory of the key-value cache is known before it is taken, and what does not fit is refused."""

from __future__ import annotations

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.rows import DecodingRequest
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.serving import cache_room
from nemo_mm_align.serving.cache_room import slot_bytes, slots_for
from tests.gpu import cpu_parity_worker as small

pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]


def test_a_slot_takes_what_the_cache_takes() -> None:
    model = small.build(None)
    with DecodingSession(model, 3, 40, kept=2) as session:
        session.admit(
            [DecodingRequest(EncodedPrompt("", [1, 9, 11]), SamplingSettings(0, max_new_tokens=2), frozenset({3}))]
        )
        session.step()
        stored = session._stage.cache._stored.values()
        assert sum(tensor.nbytes for pair in stored for tensor in pair) == 5 * slot_bytes(model, 40)


def test_as_many_as_fit_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small.build(None)
    each = slot_bytes(model, 40)
    monkeypatch.setattr(cache_room, "_free_bytes", lambda model: int(10 * each / 0.8) + 1)
    assert slots_for(model, 40, kept=4, wanted=None) == 6
    assert slots_for(model, 40, kept=4, wanted=6) == 6
    assert slots_for(model, 20, kept=4, wanted=None) == 16
    for wanted, kept in ((7, 4), (None, 10)):
        with pytest.raises(UserError, match="there is room for 10 of both. Lower length"):
            slots_for(model, 40, kept, wanted)
    monkeypatch.setattr(cache_room, "_free_bytes", lambda model: 10**15)
    assert slots_for(model, 40, 4, None) == cache_room.MOST_SLOTS
