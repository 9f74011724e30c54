"""A small model served by `scripts/serve.py`, asked by the official client; its answers are those that it gives offline."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from nemo_mm_align.core.configuration import read
from nemo_mm_align.inference.generator import Generator
from nemo_mm_align.inference.loading import open_for_inference
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt, Turn
from tests.decoding_model import make_folder
from tests.distributed import REPOSITORY
from tests.serving_process import KEY, ServingProcess, serving
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.e2e

LONG = 900
"""Tokens of an answer that somebody gives up."""
LONGER = " ".join(f"w{number}" for number in range(30, 60))
"""A question that is kept for the next that begins with it."""
SETTINGS = ["template=vicuna_v1", "template.system=''", "attribute_schema=helpsteer", "slots=2", "max_waiting=2",
            "kept=2", "length=2000", "aliases={short: {verbosity: 0}}", "name=tiny", "limits.max_tokens=1000",
            "limits.kept_embedding_bytes=0"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serve")
    make_folder(place / "model")
    Image.radial_gradient("L").resize((40, 30)).convert("RGB").save(place / "picture.png")
    return place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServingProcess]:
    with serving(folder, f"checkpoint={folder}/model", *SETTINGS) as found:
        yield found


@pytest.fixture(scope="module")
def generator(folder: Path) -> Generator:
    import yaml

    schema = read(AttributeSchema, yaml.safe_load((REPOSITORY / "conf/attribute_schema/helpsteer.yaml").read_text()))
    template = yaml.safe_load((REPOSITORY / "conf/template/vicuna_v1.yaml").read_text())
    template["system"] = ""  # words that the model does not know leave it little to say
    opened = open_for_inference(folder / "model", ParallelConfig(), "fp32", template, schema)
    runtime.initialize(opened.parallel, 0)
    return opened.generator(max_batch_tokens=4000)


def offline(generator: Generator, content: str, attributes: Any = None, images: tuple[str, ...] = ()) -> str:
    prompt = Prompt(id="one", images=images, turns=(Turn(role="user", content=content),))
    settings = SamplingSettings(temperature=0, max_new_tokens=20)
    (found,) = generator.generate([prompt], settings, [attributes], progress=False)
    return found.candidates[0].text


def ask(server: ServingProcess, content: Any, **more: Any) -> Any:
    fields = {"model": "tiny", "temperature": 0, "max_tokens": 20, **more}
    return server.client().chat.completions.create(messages=[{"role": "user", "content": content}], **fields)


def test_greedy_answers_are_those_given_offline(server: ServingProcess, generator: Generator, folder: Path) -> None:
    data = base64.b64encode((folder / "picture.png").read_bytes()).decode()
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", "detail": "low"}}
    parts = [shown, {"type": "text", "text": "w3 w4"}]
    questions = [(f"w{number} w{2 * number} w9", None) for number in range(6)]
    with ThreadPoolExecutor(4) as pool:  # as many as may be in work
        found = list(pool.map(lambda one: ask(server, one[0]).choices[0].message.content, questions))
        seen = ask(server, parts).choices[0].message.content
    assert found == [offline(generator, question) for question, _ in questions] and len(set(found)) > 3
    assert (
        seen
        == offline(generator, "<image>\nw3 w4", images=(str(folder / "picture.png"),))
        != offline(generator, "w3 w4")
    )


def test_a_picture_is_encoded_anew_where_no_embeddings_are_kept(server: ServingProcess, folder: Path) -> None:
    data = base64.b64encode((folder / "picture.png").read_bytes()).decode()
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    before = server.metric("mm_cache_queries_total")
    for word in ("w40", "w41"):  # before the picture, so that no kept prompt has it
        ask(server, [{"type": "text", "text": word}, shown])
    assert server.metric("mm_cache_queries_total") == before + 2 and server.metric("mm_cache_hits_total") == 0


def test_attributes_steer_as_offline(server: ServingProcess, generator: Generator) -> None:
    plain = ask(server, "w5 w6")
    assert plain.choices[0].attributes is None
    for extra, model in (({"attributes": {"verbosity": 0}}, "tiny"), ({}, "short"), ({}, "tiny@verbosity=0")):
        asked = ask(server, "w5 w6", model=model, extra_body=extra).choices[0]
        assert asked.attributes["verbosity"] == 0 and asked.attributes["helpfulness"] == 4
        assert (
            asked.message.content == offline(generator, "w5 w6", {"verbosity": 0}) != plain.choices[0].message.content
        )
    with pytest.raises(openai.BadRequestError, match="verbosity=9 is outside 0 to 4"):
        ask(server, "w5 w6", extra_body={"attributes": {"verbosity": 9}})
    swept = ask(server, "w5 w6", extra_body={"sweep": {"verbosity": [0, 4]}})
    assert [choice.attributes["verbosity"] for choice in swept.choices] == [0, 4]
    assert [choice.message.content for choice in swept.choices] == [
        offline(generator, "w5 w6", {"verbosity": level}) for level in (0, 4)
    ]
    cards = server.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["tiny", "short"] and cards[1]["default_attributes"]["verbosity"] == 0


def test_a_stream_says_what_the_whole_answer_says(server: ServingProcess) -> None:
    fields = {"n": 2, "seed": 7, "temperature": 0.9, "max_tokens": 30, "logprobs": True, "top_logprobs": 2}
    whole = ask(server, LONGER, **fields)
    texts, reasons, usage, logprobs = ["", ""], ["", ""], None, [[], []]  # type: ignore[var-annotated]
    for chunk in ask(server, LONGER, stream=True, stream_options={"include_usage": True}, **fields):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or ""
            logprobs[choice.index] += (choice.logprobs.content or []) if choice.logprobs else []
    assert texts == [choice.message.content for choice in whole.choices] and texts[0] != texts[1]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens == whole.usage.total_tokens
    assert usage.completion_tokens == whole.usage.completion_tokens
    cached = [one.prompt_tokens_details.cached_tokens for one in (whole.usage, usage)]
    assert cached == [0, usage.prompt_tokens - 1], "but for its last token the second prompt is the first one's"
    for streamed, choice in zip(logprobs, whole.choices, strict=True):
        assert [token.token for token in streamed] == [token.token for token in choice.logprobs.content]
        same = pytest.approx([token.logprob for token in choice.logprobs.content], abs=1e-4)  # one prompt was kept
        assert [token.logprob for token in streamed] == same
        said = b"".join(bytes(token.bytes) for token in choice.logprobs.content).decode()
        assert said.strip() == choice.message.content
        assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in choice.logprobs.content)


def test_a_seeded_answer_is_its_own_whatever_else_is_asked(server: ServingProcess) -> None:
    fields = {"temperature": 1, "seed": 3}
    alone = ask(server, "w8 w9", **fields).choices[0].message.content
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(ask, server, f"w{number}", temperature=1) for number in range(3)]
        assert ask(server, "w8 w9", **fields).choices[0].message.content == alone
        assert all(other.result().choices for other in others)


def test_a_stop_text_ends_a_streamed_answer_before_it(server: ServingProcess) -> None:
    words = ask(server, "w5 w6 w7", max_tokens=30).choices[0].message.content.split()
    place = next(place for place in range(2, len(words)) if words[place] not in words[:place])
    stop = [f"{words[place - 1]} {words[place]}"]
    whole = ask(server, "w5 w6 w7", max_tokens=30, stop=stop).choices[0]
    assert whole.message.content == " ".join(words[: place - 1]) and whole.finish_reason == "stop"
    chunks = list(ask(server, "w5 w6 w7", max_tokens=30, stop=stop, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content


def test_who_has_no_key_is_refused(server: ServingProcess) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.address}/v1", api_key="wrong", max_retries=0).models.list()
    assert server.client().models.list().data[0].id == "tiny"


def ask_for_long(server: ServingProcess, **more: Any) -> socket.socket:
    """Ask for a long answer over a connection of our own."""
    host, port = server.address.removeprefix("http://").split(":")
    values = {"messages": [{"role": "user", "content": "w1 w2"}], "temperature": 0, "max_tokens": LONG, **more}
    sent = json.dumps(values).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)), PATIENCE_S)
    connection.sendall(head.encode() + sent)
    return connection


def test_a_full_server_says_so_and_who_hangs_up_frees_a_slot(server: ServingProcess) -> None:
    lines = [ask_for_long(server, stream=number % 2 == 0) for number in range(4)]
    wait_until(lambda: server.metric("num_requests_running") == 2 and server.metric("num_requests_waiting") == 2)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(server, "w1")
    assert refused.value.code == "queue_full" and int(refused.value.response.headers["Retry-After"]) >= 1
    for line in lines:
        line.close()
    wait_until(lambda: server.metric("num_requests_running") + server.metric("num_requests_waiting") == 0)
    assert server.metric("request_success_total", finished_reason="abort") >= 3
    assert server.metric("kv_cache_usage_perc") == 0 and ask(server, "w1").choices


def test_asked_to_end_it_finishes_what_it_has_accepted(server: ServingProcess) -> None:
    """The last one: the server ends."""
    secret = "w70 w71 w72"
    with ThreadPoolExecutor(1) as pool:
        stream = iter(ask(server, secret, stream=True, max_tokens=LONG))
        begun = [next(stream), next(stream)]
        rest = pool.submit(list, stream)
        server.ask_to_end()
        wait_until(lambda: server.get("/health").status_code == 503)
        with pytest.raises(openai.InternalServerError, match="takes no more requests"):
            ask(server, "w1")
        chunks = [*begun, *rest.result()]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert server.process.wait(PATIENCE_S) == 0
    said = server.said
    assert "ended: everything accepted was answered" in said and "Traceback" not in said
    assert KEY not in said and secret not in said
