"""The local judge server and the arithmetic of the labelling benchmark: what they say must follow from what they saw."""

import base64
import hashlib
import http.client
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from nemo_mm_align.benchmarks.judge_server.process import server_process
from nemo_mm_align.benchmarks.labeling import most_in_window
from nemo_mm_align.benchmarks.labeling_inputs import questions, write_inputs
from nemo_mm_align.schema.records import CandidateSet, read_records
from tests.judge_server import FAULTS, FaultPlan, judge_server, question_id, true_ratings

IMAGE = b"not really an image"
TEXTS = ["red", "", "blue\n</b>"]


def gemini_body(image: bytes | None, texts: list[str]) -> dict:
    blob = [{"inlineData": {"mimeType": "image/png", "data": base64.b64encode(image).decode()}}] if image else []
    answers = [{"text": f'<answer number="{number}">\n{text}\n</answer>'} for number, text in enumerate(texts, start=1)]
    return {"contents": [{"role": "user", "parts": [{"text": "?"}, *blob, *answers]}]}


def openai_body(image: bytes, texts: list[str]) -> dict:
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    answers = "\n".join(f'<answer number="{number}">\n{text}\n</answer>' for number, text in enumerate(texts, start=1))
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": answers}]
    return {"model": "test", "messages": [{"role": "system", "content": "rate"}, {"role": "user", "content": parts}]}


def post(address: str, path: str, body: dict) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("POST", path, json.dumps(body))
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_both_protocols_give_the_same_judgement_of_what_was_sent() -> None:
    with judge_server() as server:
        _, gemini = post(server.address, "/v1beta/models/x:generateContent", gemini_body(IMAGE, TEXTS))
        _, openai = post(server.address, "/v1/chat/completions", openai_body(IMAGE, TEXTS))
        counted = post(server.address, "/v1beta/models/x:countTokens", gemini_body(IMAGE, TEXTS))
    text = gemini["candidates"][0]["content"]["parts"][0]["text"]
    assert openai["choices"][0]["message"]["content"] == text
    assert [entry["scores"] for entry in json.loads(text)["ratings"]] == [true_ratings(IMAGE, text) for text in TEXTS]
    assert counted == (200, {"totalTokens": openai["usage"]["prompt_tokens"]})
    assert [exchange.question for exchange in server.exchanges] == [question_id([IMAGE], TEXTS[::-1])] * 2
    assert len(server.counted) == 1


def test_what_cannot_be_judged_is_refused() -> None:
    with judge_server() as server:
        for body in (gemini_body(None, TEXTS), gemini_body(IMAGE, []), {"contents": 3}):
            assert post(server.address, "/v1beta/models/x:generateContent", body)[0] == 400
    with judge_server(allow_text=True) as server:
        assert post(server.address, "/v1beta/models/x:generateContent", gemini_body(None, TEXTS))[0] == 200


def test_asked_for_probabilities_it_chooses_a_letter() -> None:
    body = {"model": "j", "messages": [{"role": "user", "content": "m: red\nM: blue"}], "logprobs": True}
    with judge_server() as server:
        _, reply = post(server.address, "/v1/chat/completions", body)
    (choice,) = reply["choices"]
    told = {one["token"]: math.exp(one["logprob"]) for one in choice["logprobs"]["content"][0]["top_logprobs"]}
    first = hashlib.sha256(b"m: red\nM: blue").digest()[0] % 99 + 1
    assert told == pytest.approx({"m": first / 100, "M": 1 - first / 100})
    assert choice["message"]["content"] == max(told, key=told.__getitem__) == choice["logprobs"]["content"][0]["token"]


def test_delay_counts_from_the_arrival_and_requests_overlap() -> None:
    path, body = "/v1beta/models/x:generateContent", gemini_body(IMAGE, TEXTS)
    with judge_server(delay=1.0) as server, ThreadPoolExecutor(16) as pool:
        begun = time.monotonic()
        replies = list(pool.map(lambda _: post(server.address, path, body)[0], range(16)))
        seconds = time.monotonic() - begun
    assert replies == [200] * 16 and 1.0 <= seconds < 16 and 8 <= server.most_in_flight <= 16
    arrivals = [exchange.time for exchange in server.exchanges]
    assert seconds >= max(arrivals) - begun + 1.0, "the last one waited its whole time too"


def test_a_plan_is_a_matter_of_number_and_seed() -> None:
    def drawn(seed: int) -> list[str]:
        plan = FaultPlan(probability=0.3, seed=seed)
        return [plan._drawn(number) for number in range(500)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 100 < sum(map(bool, drawn(1))) < 200


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"slow", "stall"}))
def test_no_fault_looks_like_a_judgement(fault: str) -> None:
    requests = [
        ("/v1beta/models/x:generateContent", gemini_body(IMAGE, TEXTS)),
        ("/v1/chat/completions", openai_body(IMAGE, TEXTS)),
    ]
    with judge_server() as honest, judge_server(lambda exchange: FAULTS[fault].reply(exchange)) as faulty:
        for path, body in requests:
            expected = post(honest.address, path, body)
            assert expected[0] == 200
            with suppress(OSError, ValueError, http.client.HTTPException):
                assert post(faulty.address, path, body) != expected


def test_a_server_of_its_own_keeps_account(tmp_path: Path) -> None:
    path = "/v1beta/models/x:generateContent"
    with server_process(tmp_path / "log", schedule={1: "500"}) as server:
        begun = time.monotonic()
        statuses = [post(server.address, path, gemini_body(IMAGE, [text]))[0] for text in TEXTS]
        (first, second, third) = server.requests()
    assert statuses == [200, 500, 200] and [first["fault"], second["fault"]] == ["", "500"]
    assert third["question"] == question_id([IMAGE], TEXTS[2:])
    assert begun < first["time"] < second["time"] < third["time"] < time.monotonic()
    assert server.process.returncode is not None


def test_inputs_of_the_benchmark_are_all_different(tmp_path: Path) -> None:
    write_inputs(tmp_path, 30, images=2)
    found = questions(tmp_path)
    assert list(found) == [f"p{index}" for index in range(30)] and len(set(found.values())) == 30
    entry = next(read_records(tmp_path / "candidates.jsonl", CandidateSet))
    assert len(entry.candidates) == 4 and all(len(candidate.text.split()) == 62 for candidate in entry.candidates)
    assert 15_000 < (tmp_path / "images/0.jpg").stat().st_size < 60_000


def test_most_in_any_window() -> None:
    assert most_in_window([0.0, 59.9, 60.0, 100.0, 119.9, 120.0], 60.0) == 3  # 60.0 to 119.9
    assert most_in_window([0.0, 60.0, 120.0], 60.0) == 1
    assert most_in_window([1.0] * 5, 60.0) == 5
