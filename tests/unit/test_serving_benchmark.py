"""What the benchmark of the server reports must follow from what happened."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_mm_align.benchmarks.random_models import IMAGE_ID
from nemo_mm_align.benchmarks.serving.against_transformers import tied
from nemo_mm_align.benchmarks.serving.client import Client, Failed, Streamed
from nemo_mm_align.benchmarks.serving.cores import processor_seconds
from nemo_mm_align.benchmarks.serving.load import Asked, Source, arrivals, level, open_loop, rate
from nemo_mm_align.benchmarks.serving.memory import growth
from nemo_mm_align.benchmarks.serving.questions import Drawer
from nemo_mm_align.core.units import MIB
from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, VisionConfig

CONFIG = LlavaConfig(
    LanguageConfig(num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, vocab_size=50),
    VisionConfig(3, 32, 64, 4, image_size=28, patch_size=14),
    image_token_id=IMAGE_ID,
)
PIECE = b'data: {"choices": [{"delta": {"content": "w7"}}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\n'
SLOW_S = 0.4


class Scripted(BaseHTTPRequestHandler):
    """Streams two pieces, the second one after `SLOW_S`, unless it is to cut; every third request to come is refused."""

    arrived, cut = 0, False
    lock = threading.Lock()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            Scripted.arrived += 1
            refused = Scripted.arrived % 3 == 0
        self.send_response(429 if refused else 200)
        self.end_headers()
        if refused:
            self.wfile.write(b"too many")
            return
        self.wfile.write(PIECE)
        if self.cut:
            return
        time.sleep(SLOW_S)
        self.wfile.write(PIECE + USAGE + b"data: [DONE]\n\n")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def client() -> Iterator[Client]:
    Scripted.arrived = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Client(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_who_comes_does_not_wait_for_the_others(client: Client) -> None:
    asked = open_loop(client, Source(Drawer(CONFIG, (3, 3), 0), (2, 4), 0), [0.0, 0.01, 0.02, 0.03])
    assert max(one.sent for one in asked) - asked[0].sent < SLOW_S  # one after the other takes 3 x that
    (refused,) = (one for one in asked if one.answer is None)
    assert refused.fault == "429: too many"
    for answer in (one.answer for one in asked if one.answer is not None):
        assert answer.tokens == 2 and answer.seconds_per_token == answer.last - answer.first > 0.9 * SLOW_S


def test_a_level_counts_failures_and_tells_latencies_of_the_rest(client: Client) -> None:
    found = level(client, Source(Drawer(CONFIG, (3, 3), 0), (2, 4), 0), rate=30, seconds=0.5, seed=2)
    assert found["questions"] == len(arrivals(30, 0.5, 2)) and found["failed"] == found["questions"] // 3 > 0
    assert found["fault"] == "429: too many"
    assert found["per_token"]["p50"] >= 0.9 * SLOW_S and found["first_token"]["p99"] < found["per_token"]["p50"]


def test_a_stream_that_is_cut_has_failed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "cut", True)
    with pytest.raises(Failed, match="cut"):
        client.stream([], 2)


def test_a_question_on_its_way_counts_by_its_share() -> None:
    whole, half = (Asked(sent, sent, Streamed(5, sent + 1, last)) for sent, last in ((0.0, 5.0), (8.0, 12.0)))
    assert rate([whole, half], begin=0, end=10) == pytest.approx(1.5 / 10)
    with pytest.raises(RuntimeError, match="no more"):
        rate([Asked(0, 0, None, "no more")], begin=0, end=10)


def test_arrivals_are_a_poisson_process_of_a_seed() -> None:
    times = arrivals(50, 100, seed=3)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times == arrivals(50, 100, seed=3) != arrivals(50, 100, seed=4)
    assert abs(len(times) - 5000) < 3 * 71  # of its standard deviations
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.1)  # exponential


def test_growth_is_that_after_the_first_minute() -> None:
    filling = [(second, second * 10 * MIB) for second in range(60)]
    later = [(second, round((700 + 0.5 * (second - 60) / 60) * MIB)) for second in range(60, 300)]
    found = growth([*filling, *later], 300)
    assert found["mib_per_minute"] == pytest.approx(0.5, abs=1e-4)
    assert found["left_out_s"] == 60 and found["first_mib"] == 700
    assert growth(filling, 60)["left_out_s"] == 20  # a third of a short time


def test_four_questions_share_a_picture_and_nothing_comes_twice() -> None:
    drawer = Drawer(CONFIG, (3, 5), seed=0)
    repeated, other = (drawer.dialogues("repeated", 8) for _ in range(2))
    assert len(repeated) == 8 and len({one.picture for one in repeated}) == 2
    assert {len(one.questions[0].split()) for one in (*repeated, *other)} == {3, 4, 5}
    assert not {one.picture.url for one in repeated} & {one.picture.url for one in other}
    assert len({one.picture for one in drawer.dialogues("distinct", 1)}) == 4
    few = Drawer(CONFIG, (3, 5), seed=0, pictures=3)
    assert len({few.picture().url for _ in range(40)}) == 3
    (talk,) = drawer.dialogues("conversations", 1)
    messages = talk.messages(["a", "b"])
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[0]["content"][1]["text"] == talk.questions[0] and messages[4]["content"] == talk.questions[2]
    assert [turn.content for turn in talk.turns(["a"])] == [f"<image>\n{talk.questions[0]}", "a", talk.questions[1]]


@pytest.mark.parametrize(("margin", "fine"), [(9e-5, True), (2e-4, False)])
def test_answers_differ_only_where_rounding_decides(margin: float, fine: bool) -> None:
    asked: list[int] = []

    def closest(dialogue: Any, answers: Any, turn: int, tokens: int) -> float:
        asked.append(turn)
        return margin

    dialogues = Drawer(CONFIG, (3, 5), seed=0).dialogues("conversations", 2)
    theirs, ours = [["a", "b", "c"], ["a", "b", "c"]], [["a", "b", "c"], ["a", "x", "c"]]
    peer: Any = SimpleNamespace(closest_choice=closest)
    if fine:
        assert tied(peer, dialogues, theirs, ours, 5) == 1
    else:
        with pytest.raises(RuntimeError, match="'b' and 'x'"):
            tied(peer, dialogues, theirs, ours, 5)
    assert asked == [1]  # the turn at which they part


def test_a_process_has_the_clock_of_its_own() -> None:
    before = processor_seconds(os.getpid()), time.process_time()
    sum(range(3_000_000))
    after = processor_seconds(os.getpid()), time.process_time()
    assert after[0] - before[0] == pytest.approx(after[1] - before[1], rel=0.05, abs=0.002) and after[0] > before[0]
